import numpy as np
import pytest
import torch

from rayrec.models.user import UserTower
from rayrec.schema import DISLIKED, LIKED, UNKNOWN

SIZE, LENGTH = 8, 6


def tower(disturbed: bool) -> UserTower:
    torch.manual_seed(0)
    made = UserTower(SIZE, layers=2, heads=2, max_positions=16, dropout=0.3).eval()
    if disturbed:
        with torch.no_grad():
            for parameter in made.parameters():
                parameter += 0.2 * torch.randn(parameter.shape)
    return made


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    items_BLD = torch.nn.functional.normalize(torch.randn(2, LENGTH, SIZE, generator=generator), dim=-1)
    likes_BL = torch.tensor([[LIKED, DISLIKED, UNKNOWN, LIKED, DISLIKED, LIKED]] * 2)
    return items_BLD, likes_BL, torch.nn.functional.normalize(torch.randn(2, SIZE, generator=generator), dim=-1)


@pytest.mark.parametrize("dislike_weight", [0.0, -0.3])
def test_at_first_it_is_the_recency_mean_and_the_weighted_profile(dislike_weight: float) -> None:
    made = tower(disturbed=False)
    made.dislike_weight.data.fill_(dislike_weight)
    items_BLD, likes_BL, profiles_BD = inputs()
    with torch.no_grad():
        users_BQD, residual_BQD = made(items_BLD, likes_BL, profiles_BD)
    assert (residual_BQD == 0).all()
    for known in range(LENGTH + 1):
        age_L = known - 1 - np.arange(known)
        weight_L = np.exp(-0.05 * age_L) * np.where(likes_BL[0, :known] == DISLIKED, dislike_weight, 1.0)
        sum_BD = np.einsum("l,bld->bd", weight_L, items_BLD[:, :known])
        norm_B1 = np.maximum(np.linalg.norm(sum_BD, axis=-1, keepdims=True), 1e-6)
        expected_BD = sum_BD / norm_B1 + (0.1 + 0.1 / (1 + known)) * profiles_BD.numpy()
        np.testing.assert_allclose(users_BQD[:, known].numpy(), expected_BD, atol=1e-5)


@pytest.mark.parametrize("place", range(LENGTH))
def test_a_later_item_changes_nothing_before_it(place: int) -> None:
    made = tower(disturbed=True)
    items_BLD, likes_BL, profiles_BD = inputs()
    changed_BLD, changed_BL = items_BLD.clone(), likes_BL.clone()
    changed_BLD[:, place:] = 7.0
    changed_BL[:, place:] = DISLIKED
    with torch.no_grad():
        before_BQD, residual_BQD = made(items_BLD, likes_BL, profiles_BD)
        after_BQD, _ = made(changed_BLD, changed_BL, profiles_BD)
    assert residual_BQD.abs().min() > 0
    torch.testing.assert_close(after_BQD[:, : place + 1], before_BQD[:, : place + 1])
    assert (after_BQD[:, place + 1] - before_BQD[:, place + 1]).abs().max() > 1e-2


def test_a_like_and_a_profile_change_the_user() -> None:
    made = tower(disturbed=True)
    items_BLD, likes_BL, profiles_BD = inputs()
    with torch.no_grad():
        users_BQD, _ = made(items_BLD, likes_BL, profiles_BD)
        flipped_BQD, _ = made(items_BLD, torch.where(likes_BL == UNKNOWN, LIKED, likes_BL), profiles_BD)
        other_BQD, _ = made(items_BLD, likes_BL, profiles_BD.flip(0))
    assert (flipped_BQD[:, 3] - users_BQD[:, 3]).abs().max() > 1e-3
    torch.testing.assert_close(flipped_BQD[:, :3], users_BQD[:, :3])
    assert (other_BQD - users_BQD).abs().amax((1, 2)).min() > 1e-3


def test_a_user_of_whom_nothing_is_known_is_finite_and_has_a_gradient() -> None:
    made = tower(disturbed=False)
    users_BQD, _ = made(torch.zeros(1, 0, SIZE), torch.zeros(1, 0, dtype=torch.int8), torch.zeros(1, SIZE))
    assert (users_BQD == 0).all()
    users_BQD.sum().backward()
    assert made.log_decay.grad is not None
    assert all(torch.isfinite(parameter.grad).all() for parameter in made.parameters() if parameter.grad is not None)
