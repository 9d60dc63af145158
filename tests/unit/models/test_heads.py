import math

import torch

from rayrec.item_stats import FEATURES
from rayrec.models.heads import Heads, like_share
from rayrec.schema import DISLIKED, LIKED, UNKNOWN

F = len(FEATURES)


def test_the_share_of_likes_grows_event_by_event_and_unknown_is_no_opinion() -> None:
    share_BQ = like_share(torch.tensor([[LIKED, LIKED, DISLIKED, UNKNOWN], [DISLIKED, UNKNOWN, UNKNOWN, LIKED]]))
    first = [0, math.log(2), math.log(3), math.log(3 / 2), math.log(3 / 2)]
    second = [0, math.log(1 / 2), math.log(1 / 2), math.log(1 / 2), 0]
    torch.testing.assert_close(share_BQ, torch.tensor([first, second]))


def test_at_first_both_answers_follow_the_match_alone() -> None:
    match_BN = torch.linspace(-1, 1, 6).reshape(2, 3)
    score_BN, like_BN = Heads(0.1)(match_BN, torch.rand(3, F), torch.tensor([[0], [9]]), torch.tensor([[1.0], [-1.0]]))
    torch.testing.assert_close(score_BN, match_BN / 0.1)
    torch.testing.assert_close(like_BN, 2 * match_BN)


def test_both_formulas_by_hand() -> None:
    heads = Heads(0.1)
    with torch.no_grad():
        for value, parameter in enumerate(heads.parameters(), 1):
            parameter.copy_(0.1 * value * torch.arange(1, len(parameter) + 1))
    features = torch.arange(1.0, F + 1)
    score, like = heads(torch.tensor(0.5), features, torch.tensor(3), torch.tensor(-0.7))
    weighted = float((features * torch.arange(1.0, F + 1)).sum())
    assert math.isclose(float(score.detach()), math.exp(0.1) * 0.5 + 0.2 * weighted + 0.3 * weighted / 4, rel_tol=1e-5)
    assert math.isclose(float(like.detach()), 0.4 * 0.5 + 0.5 + 0.6 * -0.7 + 0.7 * weighted, rel_tol=1e-5)
    assert [name for name, _ in heads.named_parameters()] == [
        "log_scale",
        "popularity_F",
        "popularity_new_F",
        "like_scale",
        "like_bias",
        "like_share",
        "like_F",
    ]
