"""Training under Ray Train: what a fit leaves behind, and that the death of a worker changes none of it."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist
from safetensors.numpy import load_file

from rayrec.catalogue import encode_catalogue, load_states
from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.models.config import ModelConfig
from rayrec.models.encoder import load_encoder
from rayrec.models.ranker import load_ranker
from rayrec.schema import batch_of_rows
from rayrec.storage import is_published, verify
from rayrec.text import item_texts
from rayrec.train import entry, trainer, worker
from rayrec.train.checkpoint import Checkpoints
from rayrec.train.config import StageConfig, TrainConfig
from tests import tiny
from tests.synthetic import generate, published
from tests.tiny import states_in_process

pytestmark = pytest.mark.usefixtures("ray_cluster")

RATES = {"scales": 2e-2, "adapters": 3e-3, "language_model": 1e-3}
STEPS, CHECKPOINT_EVERY = 6, 2
FIT = TrainConfig(
    precision="fp32",
    num_workers=2,
    zero_stage=2,
    warmup_steps=2,
    checkpoint_every=CHECKPOINT_EVERY,
    max_failures=1,
    stages=(
        StageConfig(name="tuned", learning_rates=RATES, steps=STEPS, validate_every=3),
        StageConfig(name="id_only", control="id_only", learning_rates={"id": 1e-2}, steps=2, validate_every=1),
    ),
)
LOADER = LoaderConfig(streams=2, slots_per_batch=200, num_negatives=16)
ABOUT: dict[str, Any] = {"config": {"name": "test"}, "code": "test"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def data(folder: Path) -> Dataset:
    return published(generate(num_users=60, num_items=60, num_interactions=1800), folder / "dataset")


@pytest.fixture(scope="module")
def model(folder: Path) -> ModelConfig:
    return tiny.model_config(tiny.language_model(folder / "language_model"), dropout=0.2)


def fit(data: Dataset, uri: str, model: ModelConfig, **changes: Any) -> dict[str, Any]:
    arguments = {"model": model, "loader": LOADER, "config": FIT, "seed": 0, "provenance": ABOUT, **changes}
    return trainer.train(data.uri, uri, **arguments)


@pytest.fixture(scope="module")
def weights(folder: Path, data: Dataset, model: ModelConfig, ray_cluster: None) -> str:
    """An undisturbed fit."""
    uri = str(folder / "weights")
    fit(data, uri, model)
    return uri


def steps_of(uri: str, stage: str) -> list[tuple[int, float]]:
    lines = (Path(uri) / "logs" / "metrics.jsonl").read_text().splitlines()
    return [(row["step"], row[f"{stage}/loss"]) for row in map(json.loads, lines) if f"{stage}/loss" in row]


def test_a_fit_publishes_every_stage_and_its_logs(weights: str, data: Dataset) -> None:
    made = verify(weights, "training")
    assert made["stages"] == ["zero_shot", "tuned", "id_only"]
    assert made["code"] == "test"
    for stage in made["stages"]:
        about = verify(f"{weights}/{stage}", "weights")
        assert about["validation"] == made["validation"][stage]
        assert about["kept"] == made["kept"][stage] == (about["validation"].get("best_step", 1) > 0)
        scores_BN = load_ranker(f"{weights}/{stage}", data.stats()).score(batch_of_rows(data.rows("test")))
        assert np.isfinite(scores_BN).all()
    assert made["validation"]["tuned"]["value"] >= made["validation"]["zero_shot"]["value"]
    assert [step for step, _ in steps_of(weights, "tuned")] == list(range(1, STEPS + 1))
    assert list((Path(weights) / "logs").glob("events.out.tfevents.*"))


def test_the_same_command_again_returns_at_once_and_another_config_is_refused(
    weights: str, data: Dataset, model: ModelConfig
) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in Path(weights).rglob("*"))
    assert fit(data, weights, model) == verify(weights, "training")
    assert sorted((path, path.stat().st_mtime_ns) for path in Path(weights).rglob("*")) == before
    other_machines = {"config": {**ABOUT["config"], "train": {"num_workers": 9, "hang_seconds": 5}}}
    assert fit(data, weights, model, provenance=other_machines) == verify(weights, "training")
    with pytest.raises(ValueError, match="was trained with another config; use another run folder"):
        fit(data, weights, model, provenance={"config": {"name": "other"}})


def test_an_interrupted_training_is_not_continued_with_another_config(
    weights: str, data: Dataset, model: ModelConfig, tmp_path: Path
) -> None:
    interrupted = tmp_path / "weights"
    shutil.copytree(Path(weights) / "zero_shot", interrupted / "zero_shot")
    with pytest.raises(ValueError, match="zero_shot was trained with another config"):
        fit(data, str(interrupted), model, provenance={"config": {"name": "other"}})


def test_a_mistake_of_the_user_among_the_workers_comes_out_as_one(
    data: Dataset, model: ModelConfig, tmp_path: Path
) -> None:
    diverging = StageConfig(name="tuned", learning_rates={"adapters": 1e30}, steps=9, validate_every=4)
    config = FIT.model_copy(update={"max_failures": 0, "max_skipped": 3, "stages": (diverging,)})
    with pytest.raises(ValueError, match=r"stage 'tuned' diverged: 3 steps in a row .*lower its learning_rates"):
        fit(data, str(tmp_path / "weights"), model, config=config)


class Mortal(Checkpoints):
    """The second rank dies once, when it is about to save its second checkpoint; the first is stored."""

    saves = 0
    flag: Path

    def save(self, *arguments: Any) -> None:
        """Saves, or dies."""
        self.saves += 1
        if self.saves == 2 and not self.flag.exists():
            self.drain()
            if dist.get_rank() == 1:
                self.flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        super().save(*arguments)


def test_a_fit_whose_worker_is_killed_ends_with_the_weights_of_the_undisturbed_one(
    weights: str, data: Dataset, model: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "died"

    def mortal_work(settings: dict[str, Any]) -> str:
        """Runs in a worker, whose own module has the work() that is replaced here."""
        Mortal.flag = flag
        worker.Checkpoints = Mortal  # type: ignore[misc]
        return entry.work(settings)

    monkeypatch.setattr(entry, "work", mortal_work)
    uri = str(tmp_path / "weights")
    fit(data, uri, model)
    assert flag.exists()
    whole, seen = dict(steps_of(weights, "tuned")), steps_of(uri, "tuned")
    assert [step for step, _ in seen] == [1, 2, 3, 4, 3, 4, 5, 6]
    assert all(loss == whole[step] for step, loss in seen)
    for stage in ("tuned", "id_only"):
        expected, found = (load_file(Path(root) / stage / "model.safetensors") for root in (weights, uri))
        for name, value in found.items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_settings_that_contradict_each_other_are_refused_with_the_key(
    data: Dataset, model: ModelConfig, tmp_path: Path
) -> None:
    uri = str(tmp_path / "weights")
    with pytest.raises(ValueError, match=r"loader\.streams=1 is below train\.num_workers=2"):
        fit(data, uri, model, loader=LOADER.model_copy(update={"streams": 1}))
    with pytest.raises(ValueError, match=r"model\.max_positions=8 is too small .* set it to at least 52"):
        fit(data, uri, model.model_copy(update={"max_positions": 8}))
    assert not Path(uri).exists()


def test_the_catalogue_encoded_by_ray_is_that_of_one_process_and_is_made_once(
    data: Dataset, model: ModelConfig, tmp_path: Path
) -> None:
    texts = item_texts(data.catalogue())
    uri = encode_catalogue(texts, model, str(tmp_path), workers=(1, 2))
    verify(uri, "states")
    made, expected = load_states(uri), states_in_process(texts, load_encoder(model)[0])
    assert len(made) == len(texts)
    np.testing.assert_array_equal(made.offsets_N1, expected.offsets_N1)
    np.testing.assert_allclose(made.flat_SH, expected.flat_SH, rtol=1e-5, atol=1e-5)
    before = (Path(uri) / "states.bin").stat().st_mtime_ns
    assert encode_catalogue(texts, model, str(tmp_path), workers=(1, 2)) == uri
    assert (Path(uri) / "states.bin").stat().st_mtime_ns == before
    for other_texts, other in ((texts[1:], model), (texts, model.model_copy(update={"trainable_layers": 1}))):
        target = encode_catalogue(other_texts, other, str(tmp_path))
        assert target != uri
        assert is_published(target)
