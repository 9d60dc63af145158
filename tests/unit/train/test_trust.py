"""The key of checkpoints, what tells one run from another, and what a manifest says."""

from pathlib import Path
from typing import Any

import pytest

from rayrec.data.config import LoaderConfig
from rayrec.models.config import ModelConfig
from rayrec.storage import file_entry, write_bytes
from rayrec.train.config import TrainConfig
from rayrec.train.trust import (
    KEY_ENV,
    OF_THE_MACHINES,
    Judgement,
    Manifest,
    Trust,
    checkpoint_key,
    judged,
    run_of,
)
from rayrec.train.worker import WorkerSettings

KEY = "0123456789abcdef"


def test_the_key_comes_from_the_environment_and_a_short_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_ENV, raising=False)
    assert checkpoint_key() is None
    monkeypatch.setenv(KEY_ENV, f"{KEY}\n")
    assert checkpoint_key() == KEY.encode()
    monkeypatch.setenv(KEY_ENV, KEY[:-1])
    with pytest.raises(ValueError, match=r"holds a key of 15 bytes; .* at least 16: .*openssl rand -hex 32"):
        checkpoint_key()


def test_the_key_is_in_no_repr() -> None:
    config = TrainConfig()
    settings = WorkerSettings("data", "run", {}, ModelConfig(), LoaderConfig(), config, 0, {}, KEY.encode())
    assert KEY not in repr(settings)
    assert KEY not in repr(Trust({}, KEY.encode()))


def test_only_what_the_machines_are_does_not_tell_one_run_from_another() -> None:
    def of(dataset: str = "d", seed: int = 0, **train: Any) -> dict[str, Any]:
        config = TrainConfig.model_validate(train)
        return run_of(dataset, seed, model=ModelConfig(), loader=LoaderConfig(), config=config)

    assert of(num_workers=3, zero_stage=3, use_gpu=True, checkpoint_every=7, max_failures=9) == of()
    assert of(min_workers=1, hang_seconds=9) == of()
    for other in (of(dataset="e"), of(seed=1), of(clip=2.0), of(stages=[])):
        assert other != of()
    assert set(OF_THE_MACHINES) < set(TrainConfig.model_fields)


def manifest_at(folder: Path, **changes: object) -> Judgement:
    """What is said of a checkpoint of one file, by the key KEY, after a change of its manifest before it is signed."""
    write_bytes(str(folder / "shard"), b"abc")
    about = {"files": {"shard": file_entry(str(folder / "shard"))}, "run": {"seed": 0}, "stage": "all"}
    made = Manifest.model_validate({**about, "world_size": 1, "zero_stage": 2, **changes})
    signed = made.model_copy(update={"signature": made.signed(KEY.encode())})
    write_bytes(str(folder / "manifest.json"), signed.model_dump_json().encode())
    return judged(str(folder), Trust({"seed": 0}, KEY.encode()))


def test_a_signed_manifest_of_this_run_is_trusted_and_no_path_out_of_it(tmp_path: Path) -> None:
    assert manifest_at(tmp_path).flaw == ""
    for name in ("../shard", "/shard", "ds/../../shard"):
        found = manifest_at(tmp_path, files={name: {"size": 3, "sha256": ""}})
        assert found.foreign
        assert "outside of the checkpoint" in found.flaw


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"shard": {"size": 4, "sha256": ""}}},
        {"files": {}},
        {"stage": "other"},
        {"world_size": 2},
        {"zero_stage": 3},
        {"run": {"seed": 0, "more": 1}},
    ],
)
def test_the_signature_covers_every_field(tmp_path: Path, change: dict[str, object]) -> None:
    assert manifest_at(tmp_path).manifest is not None
    signed = Manifest.model_validate_json((tmp_path / "manifest.json").read_bytes())
    altered = Manifest.model_validate({**signed.model_dump(), **change})
    write_bytes(str(tmp_path / "manifest.json"), altered.model_dump_json().encode())
    found = judged(str(tmp_path), Trust(altered.run, KEY.encode()))
    assert found.foreign
    assert "signature" in found.flaw


@pytest.mark.parametrize("text", [b"[]", b"\xff", b"", b'{"kind": "weights"}', b'{"files": 3}'])
def test_a_manifest_that_is_none_is_a_torn_one(tmp_path: Path, text: bytes) -> None:
    write_bytes(str(tmp_path / "manifest.json"), text)
    found = judged(str(tmp_path), Trust({}, KEY.encode()))
    assert found.manifest is None
    assert found.flaw
    assert not found.foreign
