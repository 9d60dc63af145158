"""User and item vectors to a ranking score and a like, the same formulas in training, evaluation and serving."""

import math

import torch
from torch import Tensor, nn

from rayrec.item_stats import FEATURES
from rayrec.schema import DISLIKED, LIKED


class Heads(nn.Module):
    """Ranking score: <user, item> / temperature + popularity. Like: that match + bias + like-share + item statistics.

    Popularity weights start at zero and have a second part that fades as 1 / (1 + events known), for popularity speaks
    loudest about users of whom little is known.
    """

    def __init__(self, temperature: float) -> None:
        """Args:
        temperature: to begin with.
        """
        super().__init__()
        features = len(FEATURES)
        self.log_scale = nn.Parameter(torch.tensor([-math.log(temperature)]))
        self.popularity_F = nn.Parameter(torch.zeros(features))
        self.popularity_new_F = nn.Parameter(torch.zeros(features))
        self.like_scale = nn.Parameter(torch.tensor([2.0]))
        self.like_bias = nn.Parameter(torch.zeros(1))
        self.like_share = nn.Parameter(torch.zeros(1))
        self.like_F = nn.Parameter(torch.zeros(features))

    def forward(self, match: Tensor, features: Tensor, known: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """Ranking scores and log-odds of a like, both of match's shape.

        Args:
            match: <user, item>, any shape [...].
            features: FEATURES of the items, broadcastable to [..., F].
            known: events known of the user, broadcastable to [...].
            share: like_share() of the user, broadcastable to [...].
        """
        popularity = features @ self.popularity_F + (features @ self.popularity_new_F) / (1 + known)
        score = self.log_scale.exp() * match + popularity
        like = self.like_scale * match + self.like_bias + self.like_share * share + features @ self.like_F
        return score, like


def like_share(likes_BL: Tensor) -> Tensor:
    """Log-odds of the user's own likes after each number of events, [B, L + 1], shrunk by one like and one dislike."""
    liked_BL, disliked_BL = (likes_BL == LIKED).float().cumsum(1), (likes_BL == DISLIKED).float().cumsum(1)
    odds_BL = torch.log((liked_BL + 1) / (disliked_BL + 1))
    return torch.cat([odds_BL.new_zeros(len(odds_BL), 1), odds_BL], 1)
