"""At step 0 the ranker is the training-free formula; what it answers depends on a row's context and nothing else."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rayrec.item_stats import FEATURES
from rayrec.models.ranker import (
    NEW_ITEM,
    Ranker,
    catalogue_vectors,
    load_other_weights,
    load_ranker,
    load_weights,
    save_weights,
)
from rayrec.schema import DISLIKED, LIKED, UNKNOWN, Batch
from rayrec.storage import file_entry, publish, upload_directory
from tests.unit.models.toy import CONTEXTS, NUM_ITEMS, NUM_KNOWN, TEXTS, Toy, batch, build, rows, single


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


def by_hand(toy: Toy, batch: Batch) -> np.ndarray:
    """<recency-weighted mean of whitened texts + weighted whitened profile, whitened text>, from numpy alone."""
    whitening = toy.model.whitening
    mean_H, matrix_HD, profile_mean_H = (
        value.numpy() for value in (whitening.mean_H, whitening.matrix_HD, whitening.profile_mean_H)
    )
    items_ND = unit((toy.pooled_NH.numpy() - mean_H) @ matrix_HD)
    matches = []
    for row, profile in enumerate(batch.profiles):
        context = int(batch.first_target_B[row])
        user_D = np.zeros(items_ND.shape[1], np.float64)
        for place in range(context):
            if batch.likes_BL[row, place] != DISLIKED:
                user_D += math.exp(-0.05 * (context - 1 - place)) * items_ND[batch.items_BL[row, place]]
        user_D = unit(user_D)
        if profile:
            (pooled_H,) = toy.model.top.pool(toy.lower.states([profile])).numpy()
            user_D = user_D + (0.1 + 0.1 / (1 + context)) * unit((pooled_H - profile_mean_H) @ matrix_HD)
        matches.append(items_ND @ user_D)
    return np.array(matches)


def test_at_first_the_scores_are_the_training_free_formula(language_model: str) -> None:
    toy = build(language_model)
    ranker = toy.ranker()
    match_BN = by_hand(toy, batch())
    np.testing.assert_allclose(ranker.score(batch()), math.exp(2.5) * match_BN, atol=1e-4)
    np.testing.assert_allclose(ranker.like(batch()), 2 * match_BN, atol=1e-5)
    assert ranker.score(batch()).dtype == np.float32


def test_a_batch_is_its_rows_one_by_one_and_padding_changes_nothing(language_model: str) -> None:
    ranker = build(language_model).disturb().ranker()
    for answer in (ranker.score, ranker.like):
        one_by_one_BN = np.concatenate([answer(single(row)) for row in range(len(CONTEXTS))])
        np.testing.assert_allclose(answer(batch()), one_by_one_BN, rtol=1e-4, atol=1e-4)


def test_training_and_answering_score_the_same(language_model: str) -> None:
    """The softmax over all items that forward() takes for the first target is that of the ranker's scores."""
    toy = build(language_model, dropout=0.0).disturb()
    toy.model.fusion.known_N[:] = True
    for row in range(len(CONTEXTS)):
        context, moment = single(row).context_only(), single(row).as_of_B
        target = 20
        made = rows([CONTEXTS[row]], [single(row).profiles[0]], [(target, LIKED)])
        made = replace(made, as_of_B=moment, negatives_K=np.arange(NUM_ITEMS))
        with torch.no_grad():
            next_item, like, _ = toy.model(toy.inputs(made, tuned=True)).tolist()
        scores_N, likes_N = toy.ranker().score(context)[0], toy.ranker().like(context)[0]
        expected = float(np.log(np.exp(scores_N - scores_N[target]).sum()))
        assert next_item == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert like == pytest.approx(math.log1p(math.exp(-likes_N[target])), rel=1e-4, abs=1e-4)


def test_targets_change_nothing(language_model: str) -> None:
    ranker = build(language_model).disturb().ranker()
    changed = replace(batch(), items_BL=np.where(batch().targets_BL, 0, batch().items_BL))
    changed = replace(changed, likes_BL=np.where(changed.targets_BL, UNKNOWN, changed.likes_BL).astype(np.int8))
    np.testing.assert_array_equal(ranker.score(changed), ranker.score(batch()))


def test_some_items_are_scored_as_among_all(language_model: str) -> None:
    ranker = build(language_model).disturb().ranker()
    chosen = np.array([7, 0, NUM_ITEMS - 1, 7])
    np.testing.assert_allclose(ranker.score(batch(), chosen), ranker.score(batch())[:, chosen], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ranker.like(batch(), chosen), ranker.like(batch())[:, chosen], rtol=1e-5, atol=1e-5)


def test_an_item_the_catalogue_lacks_is_scored_as_one_that_nobody_met(language_model: str) -> None:
    """An unmet item of the catalogue and a new one with its text are the same; a met one has its ID and statistics."""
    ranker = build(language_model).disturb().ranker()
    whole_BN = ranker.score(batch())
    fresh_BC = ranker.score(batch(), np.zeros(0, np.int64), TEXTS)
    assert fresh_BC.shape == whole_BN.shape
    np.testing.assert_allclose(fresh_BC[:, NUM_KNOWN:], whole_BN[:, NUM_KNOWN:], rtol=1e-4, atol=1e-4)
    assert np.abs(fresh_BC - whole_BN)[:, :NUM_KNOWN].min() > 1e-4
    mixed_BC = ranker.like(batch(), np.array([3]), TEXTS[:2])
    np.testing.assert_allclose(mixed_BC[:, 0], ranker.like(batch())[:, 3], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        mixed_BC[:, 1:], ranker.like(batch(), np.zeros(0, np.int64), TEXTS[:2]), rtol=1e-5, atol=1e-5
    )


def test_the_features_of_a_new_item_are_those_of_one_that_nobody_met(language_model: str) -> None:
    toy = build(language_model)
    np.testing.assert_array_equal(
        toy.stats.features(np.array([NUM_ITEMS - 1]), batch().as_of_B[:1]), NEW_ITEM[:, : len(FEATURES)]
    )


def saved(toy: Toy, folder: Path) -> str:
    save_weights(str(folder / "written"), toy.model, catalogue_vectors(toy.model, toy.model.top.pool(toy.states)), {})
    uri = str(folder / "weights")
    publish(uri, "weights", upload_directory(str(folder / "written"), uri))
    return uri


def test_saved_and_loaded_it_answers_the_same(language_model: str, tmp_path: Path) -> None:
    toy = build(language_model).disturb()
    loaded = load_ranker(saved(toy, tmp_path), toy.stats)
    assert isinstance(loaded, Ranker)
    np.testing.assert_allclose(loaded.score(batch()), toy.ranker().score(batch()), rtol=1e-5, atol=1e-5)
    assert np.abs(loaded.score(batch()) - build(language_model).ranker().score(batch())).min(axis=1).max() > 1e-3
    np.testing.assert_allclose(
        loaded.score(batch(), None, ["a choir"]), toy.ranker().score(batch(), None, ["a choir"]), rtol=1e-5, atol=1e-5
    )


def test_weights_of_another_catalogue_are_refused(language_model: str, tmp_path: Path) -> None:
    toy = build(language_model)
    uri = saved(toy, tmp_path)
    about = json.loads((Path(uri) / "config.json").read_text())
    (Path(uri) / "config.json").write_text(json.dumps({**about, "num_items": 5}))
    with pytest.raises(ValueError, match=f"trained on 5 items, the data set has {NUM_ITEMS}"):
        load_ranker(uri, toy.stats)


def test_altered_weights_are_refused(language_model: str, tmp_path: Path) -> None:
    toy = build(language_model)
    uri = saved(toy, tmp_path)
    path = Path(uri) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ValueError, match="altered or torn"):
        load_weights(uri, toy.model)


def test_weights_of_another_language_model_or_of_ids_are_no_start(language_model: str, tmp_path: Path) -> None:
    toy = build(language_model)
    uri = saved(toy, tmp_path)
    config = Path(uri) / "config.json"
    about = json.loads(config.read_text())
    for change, message in (
        ({"use_text": False}, "use_text=False; expected True"),
        ({"model": {**about["model"], "language_model": "another"}}, "language_model=another; expected "),
    ):
        config.write_text(json.dumps({**about, **change}))
        publish(uri, "weights", {"config.json": file_entry(str(config))})
        with pytest.raises(ValueError, match=message):
            load_other_weights(uri, toy.model)
