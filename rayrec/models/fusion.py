"""Text and ID vectors to one item vector: whitened text, a residual adapter, a gated ID vector."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def residual_adapter(size: int, out: int | None = None) -> nn.Sequential:
    """A two-layer perceptron size -> 2 size -> out (size by default) whose output starts at zero."""
    last = nn.Linear(2 * size, size if out is None else out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), last)


class Whitening(nn.Module):
    """Centres, decorrelates and normalises language-model vectors; fitted once, then fixed.

    Frozen vectors of language models crowd in a narrow cone; whitening spreads them (Su et al., 2021, "Whitening
    sentence representations").
    """

    mean_H: Tensor
    profile_mean_H: Tensor
    matrix_HD: Tensor

    def __init__(self, hidden_size: int, size: int) -> None:
        super().__init__()
        self.register_buffer("mean_H", torch.zeros(hidden_size))
        self.register_buffer("profile_mean_H", torch.zeros(hidden_size))
        self.register_buffer("matrix_HD", torch.eye(hidden_size)[:, :size].contiguous())

    def fit(self, vectors_NH: Tensor, profiles_PH: Tensor, shrinkage: float) -> None:
        """Learns means and principal directions.

        Profiles are sentences of another kind than items; centred on the items' mean they would all look alike.

        Args:
            vectors_NH: vectors of the items that training may see.
            profiles_PH: vectors of some of training's profiles; may be empty.
            shrinkage: share of an isotropic covariance mixed in, which keeps rare directions from exploding.
        """
        size = self.matrix_HD.shape[1]
        mean_H = vectors_NH.double().mean(0)
        centred_NH = vectors_NH.double() - mean_H
        covariance_HH = centred_NH.T @ centred_NH / max(len(vectors_NH) - 1, 1)
        isotropic = covariance_HH.trace() / len(covariance_HH)
        covariance_HH = (1 - shrinkage) * covariance_HH + shrinkage * isotropic * torch.eye(len(covariance_HH))
        values_H, directions_HH = torch.linalg.eigh(covariance_HH)
        matrix_HD = (directions_HH / values_H.clamp(min=1e-9).sqrt()).flip(1)[:, :size]
        self.mean_H.copy_(mean_H)
        self.profile_mean_H.copy_(profiles_PH.double().mean(0) if len(profiles_PH) else mean_H)
        self.matrix_HD.copy_(matrix_HD)

    def forward(self, vectors_UH: Tensor, profiles: bool = False) -> Tensor:
        """Unit vectors [U, D] of items, or of profiles."""
        mean_H = self.profile_mean_H if profiles else self.mean_H
        return functional.normalize((vectors_UH - mean_H) @ self.matrix_HD, dim=-1)


class HashedIds(nn.Module):
    """ID vectors [U, D] of any number of items from a table of a fixed number of rows: the sum of two rows an item.

    Two items share both rows once in rows² pairs (Svenstrup et al., 2017, "Hash embeddings"). Dense indices follow a
    hash of the item's id already, so their remainder is as good as a hash; the second one is a linear map modulo a
    prime.
    """

    PRIME, FACTOR, SHIFT = 2**31 - 1, 1_103_515_245, 12_345

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.rows = rows
        self.weight = nn.Parameter(torch.empty(rows, size))

    def forward(self, items_U: Tensor) -> Tensor:
        """The vectors of dense indices."""
        second_U = (items_U % self.PRIME * self.FACTOR + self.SHIFT) % self.PRIME % self.rows
        return functional.embedding(items_U % self.rows, self.weight) + functional.embedding(second_U, self.weight)


class ItemFusion(nn.Module):
    """One vector an item: text + adapter(text) + gate * ID vector; and statistics guessed from the text.

    The adapter starts at zero and the ID vectors start at zero, so at first an item is its whitened text. An ID vector
    counts only for items that training has met. The guess stands in for the statistics of an item that nobody has met.
    """

    known_N: Tensor

    def __init__(self, num_items: int, size: int, features: int, use_text: bool, id_rows: int | None = None) -> None:
        """Args:
        num_items: of the catalogue.
        size: D.
        features: number of item statistics to guess.
        use_text: false for the ID-only control: random ID vectors, no text, no guess.
        id_rows: rows of the ID table; where the catalogue is larger, its items share them.
        """
        super().__init__()
        self.use_text = use_text
        self.adapter = residual_adapter(size)
        self.linear_guess = nn.Linear(size, features)
        self.guess = residual_adapter(size, features)
        self.ids: nn.Module = nn.Embedding(num_items, size)
        if id_rows is not None and id_rows < num_items:
            self.ids = HashedIds(id_rows, size)
        self.gate = nn.Parameter(torch.ones(1))
        self.register_buffer("known_N", torch.zeros(num_items, dtype=torch.bool))
        if use_text:
            nn.init.zeros_(self.ids.weight)
        else:
            nn.init.normal_(self.ids.weight, std=size**-0.5)

    def forward(self, text_UD: Tensor, items_U: Tensor, as_new_U: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Item vectors [U, D], the adapter's residual [U, D] and guessed statistics [U, F].

        Args:
            text_UD: whitened text vectors.
            items_U: dense indices; -1 for an item outside the catalogue.
            as_new_U: bool, items to treat as if nobody had met them.
        """
        text = 1.0 if self.use_text else 0.0
        residual_UD = self.adapter(text_UD)
        inside_U = items_U.clamp(min=0)
        present_U = self.known_N[inside_U] & (items_U >= 0) & ~as_new_U
        id_UD = self.gate * self.ids(inside_U) * present_U[:, None]
        guess_UF = self.linear_guess(text_UD) + self.guess(text_UD)
        return text * (text_UD + residual_UD) + id_UD, residual_UD, text * guess_UF

    @torch.no_grad()
    def fit_guess(self, text_MD: Tensor, features_MF: Tensor, ridge: float = 1.0) -> None:
        """Sets the linear guess by ridge regression.

        Args:
            text_MD: whitened text vectors of M items that training has met.
            features_MF: their statistics at the end of training's time.
            ridge: penalty; unit vectors of D dimensions make 1 a mild one.
        """
        mean_F, mean_D = features_MF.double().mean(0), text_MD.double().mean(0)
        text_MD = text_MD.double() - mean_D
        gram_DD = text_MD.T @ text_MD + ridge * torch.eye(text_MD.shape[1], dtype=torch.float64)
        weight_DF = torch.linalg.solve(gram_DD, text_MD.T @ (features_MF.double() - mean_F))
        self.linear_guess.weight.copy_(weight_DF.T)
        self.linear_guess.bias.copy_(mean_F - mean_D @ weight_DF)
