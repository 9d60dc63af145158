"""What a checkpoint must be to be opened: its manifest, whose run it is, and who signed it.

Hashes tell a torn file from a whole one; whoever can write to the storage can write hashes too: only a signature
(checkpoint_key) keeps them out.
"""

import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from rayrec.data.config import LoaderConfig
from rayrec.models.config import ModelConfig
from rayrec.privacy import SHORTEST_KEY
from rayrec.storage import MANIFEST, join, read_bytes
from rayrec.train.config import TrainConfig

KEY_ENV = "RAYREC_CHECKPOINT_KEY"
OF_THE_MACHINES = (
    *("num_workers", "min_workers", "use_gpu", "cpus_per_worker", "zero_stage"),
    *("offload_optimizer", "offload_parameters", "offload_folder", "activation_checkpointing"),
    *("checkpoint_every", "checkpoint_minutes", "checkpoints_kept", "max_failures", "hang_seconds"),
    *("wandb_project", "wandb_mode", "trace_steps"),
)
"""Keys of TrainConfig that do not tell one run from another."""


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


class Entry(BaseModel):
    """One file: its size in bytes, and its hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    sha256: str


class Manifest(BaseModel):
    """As it is stored; `world_size` and `zero_stage` are those of the shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["checkpoint"] = "checkpoint"
    files: dict[str, Entry]
    run: dict[str, Any]
    stage: str
    world_size: int
    zero_stage: int
    signature: str | None = None

    def signed(self, key: bytes) -> str:
        """HMAC-SHA256 of everything but the signature, hex."""
        text = json.dumps(self.model_dump(exclude={"signature"}), sort_keys=True)
        return hmac.digest(key, text.encode(), "sha256").hex()


class Judgement(NamedTuple):
    """The manifest, or what is wrong; `foreign`: an attack or a mistake, no torn write; `absent`: none is there."""

    manifest: Manifest | None
    flaw: str = ""
    foreign: bool = False
    absent: bool = False


def judged(uri: str, trust: Trust) -> Judgement:
    """What the manifest alone tells of a checkpoint.

    Args:
        uri: its folder.
        trust: names the run, and the key.

    Raises:
        OSError: the storage cannot be read.
    """
    path = join(uri, MANIFEST)
    try:
        found = Manifest.model_validate(json.loads(read_bytes(path)))
    except FileNotFoundError:
        return Judgement(None, f"{path} is missing", absent=True)
    except ValidationError as error:
        first = error.errors()[0]
        return Judgement(None, f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}")
    except ValueError as error:
        return Judgement(None, f"{path} is torn: {error}")
    if trust.key is not None and found.signature is None:
        return Judgement(None, f"{path} is not signed, and {KEY_ENV} is set", True)
    if trust.key is not None and not hmac.compare_digest(found.signature or "", found.signed(trust.key)):
        return Judgement(None, f"the signature of {path} is not by the key in {KEY_ENV}, or it was altered", True)
    outside = [name for name in found.files if name.startswith("/") or ".." in name.split("/")]
    if outside:
        return Judgement(None, f"{path} lists {outside[0]!r}, outside of the checkpoint", True)
    differences = _differences("", found.run, trust.run)
    if differences:
        return Judgement(None, f"{path} is of another run: {'; '.join(differences)}", True)
    return Judgement(found)


def _differences(prefix: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    found = []
    for key in sorted({*theirs, *ours}):
        seen, expected = theirs.get(key), ours.get(key)
        if isinstance(seen, Mapping) and isinstance(expected, Mapping):
            found += _differences(f"{prefix}{key}.", seen, expected)
        elif seen != expected:
            found.append(f"{prefix}{key} was {seen!r}, is {expected!r}")
    return found
