"""Checkpoints that cannot be trusted, at two ranks: passed over or refused before DeepSpeed unpickles any of them.

Every case resumes a run of which two checkpoints are left, the newer one spoilt, and tells by the losses logged
where it went on. A canary is a shard whose unpickling leaves a marker; all else in it is as it was.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from rayrec.storage import MANIFEST, file_entry
from rayrec.train.config import StageConfig, TrainConfig
from tests import tiny
from tests.synthetic import generate, published
from tests.workers import Run, settings, work

STEPS = 3
OLDER, NEWER = "checkpoint_000000_00000001", "checkpoint_000001_00000002"
KEY, OTHER_KEY = b"0123456789abcdef", b"fedcba9876543210"
SHARD = "ds/zero_pp_rank_1_mp_rank_00_optim_states.pt"
STAGE = StageConfig(name="all", learning_rates={"scales": 2e-2, "adapters": 3e-3}, steps=STEPS, validate_every=STEPS)


@dataclass(frozen=True)
class Canary:
    """Unpickling it makes a file."""

    marker: Path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.marker,)


def edit(checkpoint: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrites the manifest."""
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    change(manifest)
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))


def truncate(checkpoint: Path) -> None:
    (checkpoint / SHARD).write_bytes((checkpoint / SHARD).read_bytes()[:-100])


def flip(checkpoint: Path) -> None:
    data = bytearray((checkpoint / SHARD).read_bytes())
    data[len(data) // 2] ^= 1
    (checkpoint / SHARD).write_bytes(data)


def remove(checkpoint: Path) -> None:
    (checkpoint / SHARD).unlink()


def tear_manifest(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).write_bytes((checkpoint / MANIFEST).read_bytes()[:-100])


def no_manifest(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).unlink()


def wrong_signature(checkpoint: Path) -> None:
    edit(checkpoint, lambda manifest: manifest.update(signature=manifest["signature"][::-1]))


def unsigned(checkpoint: Path) -> None:
    edit(checkpoint, lambda manifest: manifest.pop("signature"))


def plant(checkpoint: Path, name: str = SHARD, source: str = SHARD) -> None:
    """A canary in the place of a shard."""
    state = torch.load(checkpoint / source, weights_only=False)
    torch.save({**state, "canary": Canary(checkpoint.parent / "marker")}, checkpoint / name)


def plant_and_hash(checkpoint: Path) -> None:
    """By somebody who can write the manifest too, but has no key to sign it."""
    plant(checkpoint)
    edit(checkpoint, lambda manifest: manifest["files"].update({SHARD: file_entry(str(checkpoint / SHARD))}))


def plant_beside(checkpoint: Path) -> None:
    """A file that the manifest does not list: of all that match mp_rank_*_model_states.pt DeepSpeed opens the first."""
    plant(checkpoint, "ds/mp_rank_!_model_states.pt", "ds/mp_rank_00_model_states.pt")


@dataclass(frozen=True)
class Case:
    """What is done to the newest checkpoint of two, or of one, and what then says.

    Attributes:
        spoil: what is done.
        key: of the resumed run.
        only: whether no older checkpoint is left.
        seed: of the resumed run.
        steps: it makes, from where it goes on; 0 where it is refused.
        said: part of the warning or of the refusal.
    """

    spoil: Callable[[Path], None]
    steps: int
    said: str
    key: bytes | None = None
    only: bool = False
    seed: int = 0


FROM_NEWEST, FROM_OLDER, ANEW, REFUSED = STEPS - 2, STEPS - 1, STEPS, 0
CASES = {
    "untouched": Case(lambda _: None, FROM_NEWEST, "", KEY),
    "truncated": Case(truncate, FROM_OLDER, f"{NEWER}/{SHARD} has"),
    "bit_flipped": Case(flip, FROM_OLDER, f"{NEWER}/{SHARD} has"),
    "bit_flipped_alone": Case(flip, ANEW, "the stage starts anew", KEY, only=True),
    "missing": Case(remove, FROM_OLDER, f"{NEWER}/{SHARD} is missing though"),
    "torn_manifest": Case(tear_manifest, FROM_OLDER, f"{NEWER}/{MANIFEST} is torn"),
    "no_manifest": Case(no_manifest, FROM_OLDER, f"{NEWER}/{MANIFEST} is missing"),
    "canary_beside": Case(plant_beside, FROM_NEWEST, "", KEY),
    "wrong_signature": Case(wrong_signature, FROM_OLDER, "the signature of", KEY),
    "wrong_signature_alone": Case(wrong_signature, REFUSED, "not by the key in RAYREC_CHECKPOINT_KEY", KEY, only=True),
    "another_key": Case(lambda _: None, REFUSED, "not by the key in RAYREC_CHECKPOINT_KEY", OTHER_KEY),
    "unsigned": Case(unsigned, FROM_OLDER, "is not signed", KEY),
    "unsigned_alone": Case(unsigned, REFUSED, "is not signed", KEY, only=True),
    "unsigned_without_key": Case(unsigned, FROM_NEWEST, ""),
    "canary": Case(plant, FROM_OLDER, f"{NEWER}/{SHARD} has"),
    "canary_hashed": Case(plant_and_hash, FROM_OLDER, "the signature of", KEY),
    "canary_hashed_without_key": Case(plant_and_hash, FROM_NEWEST, ""),
    "another_run": Case(lambda _: None, REFUSED, "is of another run: seed was 0, is 1", KEY, seed=1),
    "another_run_before_ours": Case(
        lambda checkpoint: edit(checkpoint, lambda manifest: manifest["run"]["train"].update(clip=7.0)),
        FROM_OLDER,
        "is of another run: train.clip was 7.0, is 1.0",
    ),
}


@dataclass(frozen=True)
class Outcome:
    """The undisturbed run; by case the resumed run, and the message of the ValueError that ended it, if one did."""

    undisturbed: Run
    runs: dict[str, Run]
    messages: dict[str, str | None]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("checkpoints")
    model = tiny.model_config(tiny.language_model(folder / "language_model"), dropout=0.2)
    data = published(generate(num_users=40, num_items=40, num_interactions=800), folder / "dataset")
    config = TrainConfig(zero_stage=2, checkpoint_every=1, warmup_steps=2, stages=(STAGE,))

    def run(key: bytes | None, seed: int = 0) -> Run:
        chosen = settings(data, folder, model, config, streams=2, slots_per_batch=200, num_negatives=8)
        return Run(replace(chosen, checkpoint_key=key, seed=seed))

    undisturbed = run(KEY)
    assert work([undisturbed], 2) == [None]
    runs = {}
    for name, case in CASES.items():
        runs[name] = run(case.key, case.seed)
        shutil.copytree(undisturbed.checkpoints, runs[name].checkpoints)
        if case.only:
            shutil.rmtree(runs[name].checkpoints / OLDER)
        case.spoil(runs[name].checkpoints / NEWER)
    messages = dict(zip(runs, work(list(runs.values()), 2), strict=True))
    return Outcome(undisturbed, runs, messages)


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_is_taken_passed_over_or_refused(outcome: Outcome, name: str) -> None:
    case, run, message = CASES[name], outcome.runs[name], outcome.messages[name]
    if case.steps == REFUSED:
        assert message is not None
        assert case.said in message
        assert not (Path(run.settings.uri) / "all").exists()
        return
    assert message is None
    assert run.losses("all") == outcome.undisturbed.losses("all")[-case.steps :]
    warnings = run.warnings()
    assert case.said in warnings
    assert bool(case.said) == bool(warnings)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.steps != REFUSED])
def test_the_weights_are_those_of_the_undisturbed_run(outcome: Outcome, name: str) -> None:
    expected, found = (
        load_file(Path(run.settings.uri) / "all" / "model.safetensors")
        for run in (outcome.undisturbed, outcome.runs[name])
    )
    assert found.keys() == expected.keys()
    for parameter, value in found.items():
        np.testing.assert_array_equal(value, expected[parameter], err_msg=parameter)


def test_no_canary_is_unpickled_that_a_hash_or_a_signature_tells(outcome: Outcome) -> None:
    fired = {name for name, run in outcome.runs.items() if list(run.checkpoints.rglob("marker"))}
    assert fired == {"canary_hashed_without_key"}, "the canary sings; hashes made anew are told by a signature alone"
