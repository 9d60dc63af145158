"""A history of item vectors and a profile vector to a user vector after every event."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from rayrec.models.fusion import residual_adapter
from rayrec.schema import DISLIKED


class UserTower(nn.Module):
    """Recency-weighted mean of the history + weighted profile + a causal transformer whose output starts at zero.

    With the transformer and the profile adapter at zero this is the training-free text scorer, with few numbers: the
    recency decay, the weight of disliked items, and the profile's weight, of which one part fades as events come in.
    """

    def __init__(self, size: int, *, layers: int, heads: int, max_positions: int, dropout: float) -> None:
        super().__init__()
        self.log_decay = nn.Parameter(torch.tensor([math.log(0.05)]))
        self.dislike_weight = nn.Parameter(torch.zeros(1))
        self.profile_weight_2 = nn.Parameter(torch.tensor([0.1, 0.1]))
        self.profile_adapter = residual_adapter(size)
        self.start_D = nn.Parameter(torch.zeros(size))
        self.likes = nn.Embedding(3, size)
        self.positions = nn.Embedding(max_positions, size)
        nn.init.normal_(self.likes.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            size, heads, 2 * size, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.out = nn.Linear(size, size)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, items_BLD: Tensor, likes_BL: Tensor, profiles_BD: Tensor) -> tuple[Tensor, Tensor]:
        """User vectors [B, L + 1, D], the q-th after the first q items, and the learned residual [B, L + 1, D].

        Args:
            items_BLD: item vectors in time order, right-padded (padding is never attended to by what comes before it).
            likes_BL: LIKED, DISLIKED or UNKNOWN.
            profiles_BD: unit vectors; zero where nothing is known.
        """
        length = items_BLD.shape[1]
        tokens_BLD = math.sqrt(items_BLD.shape[-1]) * items_BLD + self.likes(likes_BL.long() + 1)
        start_B1D = (self.start_D + profiles_BD)[:, None]
        tokens_BQD = torch.cat([start_B1D, tokens_BLD], 1)
        tokens_BQD = tokens_BQD + self.positions(torch.arange(length + 1, device=items_BLD.device))
        causal_QQ = torch.ones(length + 1, length + 1, dtype=torch.bool, device=items_BLD.device).triu(1)
        hidden_BQD = self.transformer(tokens_BQD, mask=causal_QQ)
        residual_BQD = self.out(hidden_BQD) + self.profile_adapter(profiles_BD)[:, None]
        mean_BQD = self._recency_mean(items_BLD, likes_BL)
        always, fading = self.profile_weight_2
        weight_Q = always + fading / (1 + torch.arange(length + 1, device=items_BLD.device))
        return mean_BQD + weight_Q[:, None] * profiles_BD[:, None] + residual_BQD, residual_BQD

    def _recency_mean(self, items_BLD: Tensor, likes_BL: Tensor) -> Tensor:
        length = items_BLD.shape[1]
        query_Q = torch.arange(length + 1, device=items_BLD.device)
        age_QL = query_Q[:, None] - 1 - query_Q[None, :length]
        decay_QL = torch.exp(-self.log_decay.exp() * age_QL.clamp(min=0)) * (age_QL >= 0)
        weight_BL = torch.where(likes_BL == DISLIKED, self.dislike_weight, torch.ones_like(self.dislike_weight))
        sum_BQD = torch.einsum("ql,bl,bld->bqd", decay_QL, weight_BL, items_BLD)
        return functional.normalize(sum_BQD, dim=-1, eps=1e-6)
