"""A checkpoint: DeepSpeed's shards of all ranks, where loop and reader stand, best weights, a manifest of it all.

DeepSpeed unpickles what it opens, and a pickle runs code. So nothing is opened where it lies: what the manifest lists
is copied into a directory of the rank's own, and the copy must have the manifest's hashes. Hashes tell a torn file
from a whole one; whoever can write to the storage can write hashes too: only a signature (checkpoint_key) keeps them
out.
"""

import hmac
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file

from rayrec.data.config import LoaderConfig
from rayrec.data.loader import merged
from rayrec.models.config import ModelConfig
from rayrec.privacy import SHORTEST_KEY
from rayrec.storage import MANIFEST, fetch_file, file_entry, join, publish, read_bytes, read_json, write_json
from rayrec.train.config import TrainConfig
from rayrec.train.engine import Engine
from rayrec.train.loop import LoopState

KEY_ENV = "RAYREC_CHECKPOINT_KEY"
OF_THE_MACHINES = (
    *("num_workers", "min_workers", "use_gpu", "cpus_per_worker", "zero_stage"),
    *("checkpoint_every", "checkpoint_minutes", "checkpoints_kept", "max_failures", "hang_seconds"),
    *("wandb_project", "wandb_mode", "trace_steps"),
)
"""Keys of TrainConfig that do not tell one run from another."""
Value = TypeVar("Value")
logger = logging.getLogger(__name__)


def checkpoint_key() -> bytes | None:
    """The key in RAYREC_CHECKPOINT_KEY, or None where it is not set.

    Raises:
        ValueError: it is too short.
    """
    key = os.environb.get(KEY_ENV.encode(), b"").strip()
    if key and len(key) < SHORTEST_KEY:
        raise ValueError(
            f"{KEY_ENV} holds a key of {len(key)} bytes; signatures of checkpoints need at least {SHORTEST_KEY}: set "
            "it to what `openssl rand -hex 32` prints and keep it, or unset it"
        )
    return key or None


def run_of(dataset: str, seed: int, *, model: ModelConfig, loader: LoaderConfig, config: TrainConfig) -> dict[str, Any]:
    """What determines a run, as JSON values: a checkpoint of another is not loaded.

    Args:
        dataset: fingerprint of the data.
        seed, model, loader, config: of the run.
    """
    return {
        "dataset": dataset,
        "seed": seed,
        "model": model.model_dump(mode="json"),
        "loader": loader.model_dump(mode="json"),
        "train": config.model_dump(mode="json", exclude=set(OF_THE_MACHINES)),
    }


@dataclass(frozen=True)
class Trust:
    """What a checkpoint must be to be loaded.

    Attributes:
        run: run_of() of this run.
        key: its manifest is signed with it; None where signatures are neither made nor asked for.
    """

    run: Mapping[str, Any]
    key: bytes | None = field(default=None, repr=False)


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    sha256: str


class _Manifest(BaseModel):
    """As it is stored; `world_size` and `zero_stage` are those of the shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["checkpoint"] = "checkpoint"
    files: dict[str, _Entry]
    run: dict[str, Any]
    stage: str
    world_size: int
    zero_stage: int
    signature: str | None = None

    def signed(self, key: bytes) -> str:
        """HMAC-SHA256 of everything but the signature, hex."""
        text = json.dumps(self.model_dump(exclude={"signature"}), sort_keys=True)
        return hmac.digest(key, text.encode(), "sha256").hex()


class _Judgement(NamedTuple):
    """The manifest, or what is wrong; `foreign` tells an attack or a mistake from a torn write."""

    manifest: _Manifest | None
    flaw: str = ""
    foreign: bool = False


def save_checkpoint(
    directory: str, engine: Engine, state: LoopState, reader: Mapping[str, Any], stage: str, trust: Trust
) -> None:
    """Writes this rank's files into its own local directory; every rank calls it.

    Rank 0 adds the loop's state, the best weights and the manifest, which lists the files of all ranks.

    Args:
        directory: empty, local.
        engine: the stage's engine.
        state: where the loop stands.
        reader: where this rank's Loader stands; the ranks' are merged.
        stage: its name.
        trust: names the run, and signs.
    """
    engine.save(directory)
    readers: list[Mapping[str, Any]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(readers, reader)
    if dist.get_rank() == 0:
        about = {name: value for name, value in asdict(replace(state, best={})).items() if name != "best"}
        write_json(os.path.join(directory, "state.json"), {**about, "reader": merged(readers)})
        save_file(dict(state.best), os.path.join(directory, "best.safetensors"))
    own = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            own[os.path.relpath(path, directory).replace(os.sep, "/")] = file_entry(path)
    everyone: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, own)
    if dist.get_rank() == 0:
        made = _Manifest(
            files={name: entry for files in everyone for name, entry in files.items()},
            run=dict(trust.run),
            stage=stage,
            world_size=dist.get_world_size(),
            zero_stage=engine.config.zero_stage,
        )
        if trust.key is not None:
            made = made.model_copy(update={"signature": made.signed(trust.key)})
        publish(directory, **made.model_dump(exclude_none=True))


def resume(
    newest_first: Callable[[], list[str]], engine: Engine, stage: str, trust: Trust
) -> tuple[LoopState, dict[str, Any]] | None:
    """Restores the engine from the newest checkpoint that can be trusted; every rank calls it, and all take the same.

    Rank 0 chooses by the manifests; each rank verifies its copy of the files, and one flaw anywhere counts for all. A
    torn checkpoint, with a file missing, cut or altered, is passed over for the one before with a warning; when none is
    left, the stage starts anew. So is one of another run, or without the right signature where there is a key; but that
    is an attack or a mistake, and when none before it can be trusted the run ends.

    Args:
        newest_first: URIs of what may be checkpoints; asked on rank 0.
        engine: the stage's engine.
        stage: its name; a trusted checkpoint of another stage means that this one has not saved any.
        trust: names the run, and the key.

    Returns:
        Where the loop stands, and what every rank's Loader loads; None where the stage starts anew.

    Raises:
        ValueError: the only checkpoints belong to another run or lack the right signature, or another world size or
            ZeRO stage wrote the one chosen.
    """
    flaw, foreign = "", ""
    for uri in _of_first_rank(newest_first):
        found, flaw_here, is_foreign = _of_first_rank(partial(_judged, uri, trust))
        if found is not None and found.stage != stage:
            foreign = ""
            break
        if found is not None:
            _check_shape(found, engine)
            with tempfile.TemporaryDirectory() as directory:
                flaws = [""] * dist.get_world_size()
                dist.all_gather_object(flaws, _copied(uri, found, directory))
                flaw_here = next(filter(None, flaws), "")
                if not flaw_here:
                    return _loaded(directory, engine)
        flaw, foreign = flaw_here, foreign or (flaw_here if is_foreign else "")
        _warn(f"the checkpoint {uri} is passed over: {flaw}")
    if foreign:
        raise ValueError(
            f"{foreign}; no checkpoint before it can be trusted: find out who wrote it, then remove it, "
            "or use another run folder to start anew"
        )
    if flaw:
        _warn(f"no checkpoint of stage {stage!r} can be used; the stage starts anew")
    return None


def _of_first_rank(make: Callable[[], Value]) -> Value:
    box: list[Any] = [make() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box)
    value: Value = box[0]
    return value


def _warn(message: str) -> None:
    if dist.get_rank() == 0:
        logger.warning(message)


def _judged(uri: str, trust: Trust) -> _Judgement:
    """What the manifest alone tells."""
    path = join(uri, MANIFEST)
    try:
        found = _Manifest.model_validate(json.loads(read_bytes(path)))
    except FileNotFoundError:
        return _Judgement(None, f"{path} is missing")
    except ValidationError as error:
        first = error.errors()[0]
        return _Judgement(None, f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}")
    except ValueError as error:
        return _Judgement(None, f"{path} is torn: {error}")
    if trust.key is not None and found.signature is None:
        return _Judgement(None, f"{path} is not signed, and {KEY_ENV} is set", True)
    if trust.key is not None and not hmac.compare_digest(found.signature or "", found.signed(trust.key)):
        return _Judgement(None, f"the signature of {path} is not by the key in {KEY_ENV}, or it was altered", True)
    outside = [name for name in found.files if name.startswith("/") or ".." in name.split("/")]
    if outside:
        return _Judgement(None, f"{path} lists {outside[0]!r}, outside of the checkpoint", True)
    differences = _differences("", found.run, trust.run)
    if differences:
        return _Judgement(None, f"{path} is of another run: {'; '.join(differences)}", True)
    return _Judgement(found)


def _differences(prefix: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    found = []
    for key in sorted({*theirs, *ours}):
        seen, expected = theirs.get(key), ours.get(key)
        if isinstance(seen, Mapping) and isinstance(expected, Mapping):
            found += _differences(f"{prefix}{key}.", seen, expected)
        elif seen != expected:
            found.append(f"{prefix}{key} was {seen!r}, is {expected!r}")
    return found


def _check_shape(found: _Manifest, engine: Engine) -> None:
    for key, seen, expected in (
        ("train.num_workers", found.world_size, dist.get_world_size()),
        ("train.zero_stage", found.zero_stage, engine.config.zero_stage),
    ):
        if seen != expected:
            raise ValueError(
                f"the checkpoint was written with {key}={seen}, this run has {expected}; "
                f"set {key}={seen} to go on, or use another run folder to start anew"
            )


def _copied(uri: str, found: _Manifest, directory: str) -> str:
    """Copies what the manifest lists and nothing else; returns what is wrong with the copy, or ""."""
    for name, entry in found.files.items():
        try:
            seen = fetch_file(join(uri, name), os.path.join(directory, name))
        except FileNotFoundError:
            return f"{join(uri, name)} is missing though the manifest lists it"
        if seen != entry.model_dump():
            return (
                f"{join(uri, name)} has {seen['size']} bytes and sha256 {seen['sha256'][:12]}…, the manifest says "
                f"{entry.size} and {entry.sha256[:12]}…: altered or torn"
            )
    return ""


def _loaded(directory: str, engine: Engine) -> tuple[LoopState, dict[str, Any]]:
    about = read_json(os.path.join(directory, "state.json"))
    reader: dict[str, Any] = about.pop("reader")
    engine.load(directory)
    return LoopState(**about, best=load_file(os.path.join(directory, "best.safetensors"))), reader
