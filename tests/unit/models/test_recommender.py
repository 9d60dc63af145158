from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from rayrec.item_stats import FEATURES
from rayrec.models.recommender import (
    LOSSES,
    ModelInput,
    Recommender,
    group_of,
    known_or_guess,
    load_trained_state,
    open_groups,
    trained_state,
)
from rayrec.schema import DISLIKED, LIKED, UNKNOWN
from tests import tiny
from tests.unit.models.toy import NUM_ITEMS, NUM_KNOWN, Toy, batch, build, nothing, rows, single

GROUPS = ("scales", "adapters", "id", "language_model")
STILL: dict[str, object] = {"dropout": 0.0, "new_item_rate": 0.0, "look_ahead": 0.0, "profile_only": 0.0}


def losses(toy: Toy, inputs: ModelInput, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        return toy.model(inputs)


def test_at_first_an_item_is_its_whitened_text_and_nothing_pulls(language_model: str) -> None:
    toy = build(language_model)
    vectors_ND, residual_ND, _ = toy.model.encode_items(toy.pooled_NH, torch.arange(NUM_ITEMS))
    assert torch.equal(vectors_ND, toy.model.whitening(toy.pooled_NH))
    assert (residual_ND == 0).all()
    assert losses(toy, toy.inputs(batch()))[LOSSES.index("pull")] == 0


def test_the_losses_are_sums_over_rows(language_model: str) -> None:
    """And what a row is padded with changes nothing."""
    toy = build(language_model, **STILL).disturb()
    whole = losses(toy, toy.inputs(batch()))
    parts = torch.stack([losses(toy, toy.inputs(single(row))) for row in range(4)]).sum(0)
    torch.testing.assert_close(whole[:2], parts[:2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tuned", [False, True])
def test_states_and_pooled_vectors_give_the_same_losses(language_model: str, tuned: bool) -> None:
    toy = build(language_model, **STILL)
    torch.testing.assert_close(losses(toy, toy.inputs(batch(), tuned)), losses(toy, toy.inputs(batch())))


def test_the_counts_are_those_of_targets_and_labels(language_model: str) -> None:
    toy = build(language_model)
    assert toy.inputs(batch()).counts().tolist() == [4 * 2, 4 * 2, 1]
    assert toy.inputs(nothing()).counts().tolist() == [0, 0, 0]


@pytest.mark.parametrize("tuning", ["lora", "layers"])
@pytest.mark.parametrize("empty", [False, True])
def test_every_trainable_parameter_gets_a_gradient_in_every_forward(
    language_model: str, tuning: str, empty: bool
) -> None:
    """ZeRO waits for ever for a parameter that one rank's backward pass leaves out."""
    toy = build(language_model, tuning=tuning)
    opened = open_groups(toy.model, set(GROUPS))
    toy.model.train()
    summed = toy.model(toy.inputs(nothing() if empty else batch(), tuned=True))
    summed.sum().backward()
    for group in GROUPS:
        assert opened[group]
        for name, parameter in opened[group]:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    if empty:
        assert (summed == 0).all()
        assert all((parameter.grad == 0).all() for _, parameter in opened["adapters"])


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_opens_and_nothing_else(language_model: str, group: str) -> None:
    toy = build(language_model)
    opened = open_groups(toy.model, {group})
    names = {name for name, parameter in toy.model.named_parameters() if parameter.requires_grad}
    assert set(opened) == {group}
    assert names == {name for name, _ in opened[group]}
    assert names
    assert {group_of(name) for name in names} == {group}
    if group == "language_model":
        assert all("lora_" in name for name in names)


def test_layers_are_opened_whole_where_the_config_says_so(language_model: str) -> None:
    toy = build(language_model, tuning="layers")
    opened = open_groups(toy.model, {"language_model"})["language_model"]
    assert len(opened) == 2 * 16
    assert not any("lora_" in name for name, _ in opened)


def test_a_saved_state_gives_the_same_outputs_and_other_ones_than_before(language_model: str) -> None:
    trained, fresh = build(language_model).disturb(), build(language_model)
    state = trained_state(trained.model)
    assert not any(".query.base_layer" in name or "embeddings" in name for name in state)
    before = losses(fresh, fresh.inputs(batch(), tuned=True))
    load_trained_state(fresh.model, state)
    after = losses(fresh, fresh.inputs(batch(), tuned=True))
    assert torch.equal(after, losses(trained, trained.inputs(batch(), tuned=True)))
    assert (after - before).abs().min() > 1e-3
    changed = fresh.model.top.pool(fresh.states)
    assert (changed - fresh.pooled_NH).abs().max() > 1e-2


@pytest.mark.parametrize("fault", ["missing", "surplus", "misshapen"])
def test_a_state_that_does_not_fit_is_refused_by_name(language_model: str, fault: str) -> None:
    model = build(language_model).model
    state, before = trained_state(model), trained_state(model)
    name = "user.out.weight"
    if fault == "missing":
        del state[name]
    elif fault == "misshapen":
        state[name] = torch.zeros(2, 2)
    else:
        name = "user.other"
        state[name] = torch.zeros(1)
    with pytest.raises(ValueError, match=f"'{name}' is missing, surplus or of another shape .*1 in all"):
        load_trained_state(model, state)
    assert all(torch.equal(value, before[key]) for key, value in trained_state(model).items())


def test_the_text_of_an_item_treated_as_new_is_all_that_counts(language_model: str) -> None:
    """With every item as new, neither ID vectors nor statistics can change the losses."""
    toy = build(language_model, **{**STILL, "new_item_rate": 0.999999}).disturb()
    toy.model.train()
    inputs = toy.inputs(batch())
    before = losses(toy, inputs)
    toy.model.fusion.ids.weight.data += 5
    other = replace(inputs, features_BLF=inputs.features_BLF + 3, features_BKF=inputs.features_BKF - 2)
    unseen = FEATURES.index("unseen")
    other.features_BLF[..., unseen] = inputs.features_BLF[..., unseen]
    other.features_BKF[..., unseen] = inputs.features_BKF[..., unseen]
    torch.testing.assert_close(losses(toy, other), before)
    toy.model.eval()
    assert (losses(toy, other) - before).abs()[0] > 0.1


def test_an_unseen_item_takes_the_guess_for_its_statistics() -> None:
    features = torch.tensor([[1.0, 2, 0, 3], [0, 0, 1, 0], [4, 5, 0, 6]])
    guess = -torch.ones(3, 4)
    assert known_or_guess(features, guess)[:, 0].tolist() == [1, -1, 4]
    assert known_or_guess(features, guess, torch.tensor([False, False, True]))[:, 0].tolist() == [1, -1, -1]


def test_looking_ahead_predicts_every_target_from_the_context_alone(language_model: str) -> None:
    """What one target is changes nothing for those after it; without looking ahead it does."""
    context, profile = [[(3, LIKED), (7, LIKED)]], [""]
    targets = [(20, LIKED), (2, LIKED), (25, LIKED)]
    moved = {}
    for look_ahead in (0.0, 1.0):
        toy = build(language_model, **{**STILL, "look_ahead": look_ahead}).disturb()
        toy.model.train()
        summed = []
        for first in (20, 21):
            inputs = toy.inputs(rows(context, profile, [(first, LIKED), *targets[1:]]))
            kept_BL = inputs.targets_BL & (torch.arange(inputs.targets_BL.shape[1]) > 2)
            summed.append(losses(toy, replace(inputs, likes_BL=torch.where(kept_BL, inputs.likes_BL, UNKNOWN)))[1])
        moved[look_ahead] = abs(float(summed[0] - summed[1]))
    assert moved[1.0] < 1e-5
    assert moved[0.0] > 1e-3


def test_from_the_profile_alone_the_context_changes_nothing(language_model: str) -> None:
    targets, moved = [(20, LIKED), (2, DISLIKED)], {}
    for profile_only in (0.0, 1.0):
        toy = build(language_model, **{**STILL, "profile_only": profile_only}).disturb()
        toy.model.train()
        one, two = (
            losses(toy, toy.inputs(rows([context], ["likes zero gravity"], targets)))[:2]
            for context in ([(3, LIKED), (7, LIKED)], [(30, LIKED), (12, DISLIKED)])
        )
        moved[profile_only] = float((one - two).abs().max())
    assert moved[1.0] < 1e-5
    assert moved[0.0] > 1e-3


@pytest.mark.parametrize("share", ["look_ahead", "profile_only"])
def test_what_a_target_is_predicted_from_is_drawn_in_training_alone(language_model: str, share: str) -> None:
    toys = [build(language_model, **{**STILL, share: value}).disturb() for value in (0.0, 1.0)]
    ahead, known = (losses(toy, toy.inputs(batch())) for toy in toys)
    torch.testing.assert_close(ahead, known)
    for toy in toys:
        toy.model.train()
    assert (losses(toys[1], toys[1].inputs(batch())) - known).abs()[:2].min() > 1e-3


def test_a_disliked_target_is_a_label_and_no_next_item(language_model: str) -> None:
    toy = build(language_model, **STILL)
    only = [toy.inputs(rows([[(3, LIKED)]], [""], [(9, like)])) for like in (DISLIKED, UNKNOWN)]
    disliked, unknown = (losses(toy, inputs) for inputs in only)
    assert disliked[0] == 0
    assert disliked[1] > 0
    assert unknown[0] > 0
    assert unknown[1] == 0


def test_without_text_neither_items_texts_nor_profiles_matter(language_model: str) -> None:
    toy = build(language_model, use_text=False, **STILL).disturb()
    inputs = toy.inputs(batch())
    assert inputs.pooled_XH is not None
    other = replace(inputs, pooled_XH=torch.randn_like(inputs.pooled_XH), has_profile_B=~inputs.has_profile_B)
    torch.testing.assert_close(losses(toy, other)[:2], losses(toy, inputs)[:2])
    vectors_ND, _, _ = toy.model.encode_items(toy.pooled_NH, torch.arange(NUM_ITEMS))
    assert (vectors_ND[NUM_KNOWN:] == 0).all()
    assert (vectors_ND[:NUM_KNOWN] != 0).all()


def test_an_input_moves_whole(language_model: str) -> None:
    toy = build(language_model)
    for inputs in (toy.inputs(batch()), toy.inputs(batch(), tuned=True)):
        moved = inputs.to("meta")
        for field in fields(moved):
            value = getattr(moved, field.name)
            if isinstance(value, torch.Tensor):
                assert value.device.type == "meta", field.name
        if moved.states_X is not None:
            assert moved.states_X.place_X.device.type == "meta"


def test_vectors_wider_than_the_language_model_are_refused(language_model: str) -> None:
    with pytest.raises(ValueError, match=r"model\.embedding_size is 64; the language model has 32"):
        build(language_model, embedding_size=64)


def test_equal_seeds_give_equal_parameters(language_model: str) -> None:
    one, two = build(language_model), build(language_model)
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))
    assert isinstance(one.model, Recommender)
    assert np.isfinite(one.pooled_NH.numpy()).all()
    assert one.model.config == tiny.model_config(language_model)
