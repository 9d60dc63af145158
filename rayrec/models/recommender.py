"""The recommender: language model, fusion, user tower and heads. Training calls forward(), everything else a Ranker."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from rayrec.item_stats import FEATURES
from rayrec.models.config import ModelConfig
from rayrec.models.encoder import PaddedStates, TopLayers
from rayrec.models.fusion import ItemFusion, Whitening
from rayrec.models.heads import Heads, like_share
from rayrec.models.losses.like import like_loss
from rayrec.models.losses.next_item import next_item_loss
from rayrec.models.user import UserTower
from rayrec.schema import DISLIKED, LIKED, UNKNOWN

LOSSES = ("next_item", "like", "pull")


@dataclass(frozen=True)
class ModelInput:
    """One micro-batch as tensors: its U distinct items once, its rows as places among them.

    The texts are those of the U items and then of the B profiles: as states, where the language model is trained, or
    as pooled vectors, where it is frozen.

    Attributes:
        items_U: dense indices.
        slots_BL: place in U of each item of a row.
        likes_BL: LIKED, DISLIKED, UNKNOWN.
        targets_BL: bool.
        negatives_K: place in U of each negative.
        features_BLF: FEATURES of the rows' items as of each row's moment.
        features_BKF: FEATURES of the negatives as of each row's moment.
        has_profile_B: bool.
        pooled_XH: vectors of the U + B texts, or None.
        states_X: states of the U + B texts, or None.
        anchor_UH: the items' vectors by the pretrained language model, which training is pulled towards.
    """

    items_U: Tensor
    slots_BL: Tensor
    likes_BL: Tensor
    targets_BL: Tensor
    negatives_K: Tensor
    features_BLF: Tensor
    features_BKF: Tensor
    has_profile_B: Tensor
    pooled_XH: Tensor | None
    states_X: PaddedStates | None
    anchor_UH: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same input on a device."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            moved[field.name] = None if value is None else value.to(device)
        return replace(self, **moved)

    def counts(self) -> Tensor:
        """Next-item targets, labels, and 1 where there is any target: what the sums of forward() are divided by."""
        next_item = (self.targets_BL & (self.likes_BL != DISLIKED)).sum()
        labels = (self.targets_BL & (self.likes_BL != UNKNOWN)).sum()
        return torch.stack([next_item, labels, self.targets_BL.any().long()]).double()

    def tokens(self) -> Tensor:
        """How many go through the language model, padding left out, []; 0 where it is frozen."""
        if self.states_X is None:
            return torch.zeros((), dtype=torch.float64, device=self.items_U.device)
        return torch.stack([mask_GT.sum() for mask_GT in self.states_X.masks_GT]).sum().double()


class Recommender(nn.Module):
    """Item vector = whitened text + adapter + gated ID; user vector = recency mean + profile + causal transformer.

    Every learned part starts at zero on top of the training-free text scorer.
    """

    def __init__(self, config: ModelConfig, top: TopLayers, *, num_items: int, use_text: bool = True) -> None:
        """Args:
        config: shape.
        top: top layers of the language model, from load_encoder().
        num_items: size of the catalogue.
        use_text: false for the ID-only control, which sees neither item texts nor profiles.
        """
        super().__init__()
        self.config = config
        self.use_text = use_text
        hidden_size = top.hidden_size
        if config.embedding_size > hidden_size:
            raise ValueError(f"model.embedding_size is {config.embedding_size}; the language model has {hidden_size}")
        self.top = top
        self.whitening = Whitening(hidden_size, config.embedding_size)
        self.fusion = ItemFusion(num_items, config.embedding_size, len(FEATURES), use_text, config.id_rows)
        self.user = UserTower(
            config.embedding_size,
            layers=config.user_layers,
            heads=config.user_heads,
            max_positions=config.max_positions,
            dropout=config.dropout,
        )
        self.heads = Heads(config.temperature)

    def encode_items(
        self, pooled_UH: Tensor, items_U: Tensor, as_new_U: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Item vectors [U, D], the adapter's residual [U, D], statistics guessed from the text [U, F].

        Args:
            pooled_UH: the language model's vectors.
            items_U: dense indices, -1 outside the catalogue.
            as_new_U: bool, items to treat as if nobody had met them; None for none.
        """
        as_new_U = torch.zeros_like(items_U, dtype=torch.bool) if as_new_U is None else as_new_U
        encoded: tuple[Tensor, Tensor, Tensor] = self.fusion(self.whitening(pooled_UH), items_U, as_new_U)
        return encoded

    def encode_users(
        self, items_BLD: Tensor, likes_BL: Tensor, pooled_BH: Tensor, has_profile_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """User vectors after each number of events [B, L + 1, D] and their learned residual."""
        shown_B = has_profile_B if self.use_text else torch.zeros_like(has_profile_B)
        encoded: tuple[Tensor, Tensor] = self.user(
            items_BLD, likes_BL, self.whitening(pooled_BH, profiles=True) * shown_B[:, None]
        )
        return encoded

    def forward(self, inputs: ModelInput) -> Tensor:
        """Sums of the LOSSES over a micro-batch, [3]; `pull` is a mean square, to be divided by the micro-batches.

        Args:
            inputs: one micro-batch; rows without targets add zero.
        """
        pooled_XH = inputs.pooled_XH if inputs.states_X is None else self.top(inputs.states_X)
        assert pooled_XH is not None, "a ModelInput holds pooled vectors or states"
        distinct = len(inputs.items_U)
        as_new_U = torch.rand(distinct, device=pooled_XH.device) < self.config.new_item_rate * self.training
        items_UD, residual_UD, guess_UF = self.encode_items(pooled_XH[:distinct], inputs.items_U, as_new_U)
        features_BLF, features_BKF = (
            known_or_guess(features, guess_UF[slots], as_new_U[slots]) if self.use_text else features
            for features, slots in (
                (inputs.features_BLF, inputs.slots_BL),
                (inputs.features_BKF, inputs.negatives_K),
            )
        )
        items_BLD, negatives_KD = items_UD[inputs.slots_BL], items_UD[inputs.negatives_K]
        users_BQD, moved_BQD = self.encode_users(items_BLD, inputs.likes_BL, pooled_XH[distinct:], inputs.has_profile_B)
        likes_BL, targets_BL = inputs.likes_BL, inputs.targets_BL
        known_BL = self._predict_from(targets_BL)
        rows_B1 = torch.arange(len(known_BL), device=known_BL.device)[:, None]
        users_BLD, share_BL = users_BQD[rows_B1, known_BL], like_share(likes_BL)[rows_B1, known_BL]
        match_BL, match_BLK = (users_BLD * items_BLD).sum(-1), users_BLD @ negatives_KD.T
        positive_BL, like_BL = self.heads(match_BL, features_BLF, known_BL, share_BL)
        negative_BLK, _ = self.heads(match_BLK, features_BKF[:, None], known_BL[..., None], share_BL[..., None])
        hit_BLK = inputs.slots_BL[..., None] == inputs.negatives_K
        next_item = next_item_loss(positive_BL, negative_BLK, hit_BLK, targets_BL & (likes_BL != DISLIKED))
        like = like_loss(like_BL, (likes_BL == LIKED).long(), targets_BL & (likes_BL != UNKNOWN))
        drift_UD = self.whitening(pooled_XH[:distinct]) - self.whitening(inputs.anchor_UH)
        weight_BL1 = targets_BL[..., None].to(moved_BQD.dtype)
        moved = (moved_BQD[rows_B1, known_BL].square() * weight_BL1).sum() / weight_BL1.sum().clamp(min=1)
        pull = residual_UD.square().sum(-1).mean() + drift_UD.square().sum(-1).mean() + moved
        return torch.stack([next_item, like, pull * targets_BL.any()])

    def _predict_from(self, targets_BL: Tensor) -> Tensor:
        """How many events each position is predicted from: all before it, those before the row's moment, or none."""
        before_BL = torch.arange(targets_BL.shape[1], device=targets_BL.device).expand_as(targets_BL)
        if not self.training:
            return before_BL
        moment_BL = targets_BL.int().argmax(1, keepdim=True).expand_as(targets_BL)
        drawn_BL = torch.rand(targets_BL.shape, device=targets_BL.device)
        ahead_BL = drawn_BL < self.config.profile_only + self.config.look_ahead
        from_BL = torch.where(ahead_BL & targets_BL, moment_BL, before_BL)
        return torch.where((drawn_BL < self.config.profile_only) & targets_BL, 0, from_BL)


def known_or_guess(features: Tensor, guess: Tensor, as_new: Tensor | bool = False) -> Tensor:
    """FEATURES of items, with the guess in the place of statistics that do not exist.

    Args:
        features: [..., F], as of a moment.
        guess: [..., F], from the text.
        as_new: bool [...], items whose statistics are to be ignored.
    """
    unseen = features[..., FEATURES.index("unseen")] > 0
    return torch.where((unseen | as_new)[..., None], guess, features)


def group_of(name: str) -> str:
    """The parameter group (train/config.py's ParameterGroup) of a parameter of Recommender, by its name."""
    if name.startswith("top."):
        return "language_model"
    if name.startswith(("fusion.ids", "fusion.gate")):
        return "id"
    if name.startswith("heads.") or name in ("user.log_decay", "user.dislike_weight", "user.profile_weight_2"):
        return "scales"
    return "adapters"


def open_groups(model: Recommender, groups: set[str]) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Freezes everything but the named groups and returns their parameters by group.

    Of the language model only what `config.tuning` allows is opened: LoRA matrices, or the top layers whole.
    """
    opened: dict[str, list[tuple[str, nn.Parameter]]] = {group: [] for group in sorted(groups)}
    for name, parameter in model.named_parameters():
        group = group_of(name)
        lora_only = group == "language_model" and model.config.tuning == "lora"
        trainable = group in groups and (not lora_only or "lora_" in name)
        parameter.requires_grad_(trainable)
        if trainable:
            opened[group].append((name, parameter))
    return opened


def trained_state(model: Recommender) -> dict[str, Any]:
    """What differs from the pretrained language model: the state to save, on CPU."""
    return {
        name: value.detach().cpu().contiguous().clone()
        for name, value in model.state_dict().items()
        if not _pretrained(model.config, name)
    }


def load_trained_state(model: Recommender, state: dict[str, Any], *, language_model: bool = True) -> None:
    """Loads trained_state() back.

    Args:
        model: the model to fill.
        state: from trained_state().
        language_model: false where the loaded language model already holds what was trained in it.

    Raises:
        ValueError: names a missing or surplus or misshapen tensor.
    """
    own = model.state_dict()
    expected = {name for name in own if not _pretrained(model.config, name)}
    if not language_model:
        expected = {name for name in expected if not name.startswith("top.")}
    differing = sorted(expected ^ set(state)) or [
        name for name in sorted(state) if own[name].shape != state[name].shape
    ]
    if differing:
        raise ValueError(
            f"the weights do not fit the model: {differing[0]!r} is missing, surplus or of another shape "
            f"({len(differing)} in all); load them with the model config and data set they were trained with"
        )
    model.load_state_dict(state, strict=False)


def _pretrained(config: ModelConfig, name: str) -> bool:
    return name.startswith("top.") and config.tuning == "lora" and "lora_" not in name
