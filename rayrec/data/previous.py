"""A published dataset as the one that a new version goes on from: what must agree, what is carried over, what it tells.

The logs of the new version are those of new days; of the old ones only what the previous dataset holds is known. So
these are the limits of a new version beside one job over all logs:

- A user's old events are the last `data.max_history` that could train. Held-out items met before are not among them (as
  a target such an item may come again), nor is anything of held-out users.
- What users wrote of items in old days tells nothing of them any more, and names of events are known as far as the
  like rule tells them apart.
- Old training rows stay as they are: with profiles from the words of the catalogue as it was, and with what a filter of
  bots or endless users would now leave out. The same holds for counts in item_stats/.
"""

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from rayrec.data.config import DataConfig
from rayrec.data.split import CutOffs
from rayrec.data.work import Record, Work
from rayrec.privacy import Privacy
from rayrec.profiles import LikeRule
from rayrec.schema import DISLIKED, LIKED
from rayrec.storage import absolute, fingerprint, join, manifest, read_bytes

CARRIED = ("rows/train", "impressions", "triples", "quarantine")
"""Folders whose files a new version takes over as they are."""

MAY_DIFFER = ("source", "previous", "buckets", "part_mb", "allowed_schemes", "clean.now")
_VERSIONED = re.compile(r"-v\d+\.parquet$")


@dataclass(frozen=True)
class Previous:
    """A published dataset that a new version goes on from.

    Attributes:
        uri: where.
        version: 1 for one made of logs alone.
        buckets: of its users.
        cutoffs: of its split.
        files: its manifest entries by path.
        train: rows and targets of its training rows.
        ancestors: fingerprints of the datasets it goes on from and of itself, the oldest first.
    """

    uri: str
    version: int
    buckets: int
    cutoffs: CutOffs
    files: Mapping[str, Mapping[str, Any]]
    train: dict[str, int]
    ancestors: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Of its manifest."""
        return self.ancestors[-1]

    def paths(self, folder: str) -> list[str]:
        """The files of a folder, sorted."""
        return sorted(path for path in self.files if path.rpartition("/")[0] == folder)

    def carried(self) -> dict[str, str]:
        """The files that a new version takes over, and what it calls them: by the version that made them."""
        paths = [path for folder in CARRIED for path in self.paths(folder)]
        return {path: path if _VERSIONED.search(path) else f"{path[:-8]}-v{self.version}.parquet" for path in paths}

    def read_bytes(self, path: str) -> bytes:
        """A file, whole.

        Raises:
            ValueError: it is not what the manifest says.
        """
        data = read_bytes(join(self.uri, path))
        if hashlib.sha256(data).hexdigest() != self.files[path]["sha256"]:
            raise ValueError(
                f"{join(self.uri, path)} is not the file that the manifest lists: it was altered or torn; make the "
                "dataset again"
            )
        return data

    def table(self, path: str, schema: pa.Schema) -> pa.Table:
        """A Parquet file of which a version need not have one for every bucket; without rows where it is not there."""
        if path not in self.files:
            return schema.empty_table()
        columns = parquet.read_table(io.BytesIO(self.read_bytes(path)), columns=schema.names)
        return columns.cast(schema).combine_chunks()


def open_previous(config: DataConfig, seed: int, privacy: Privacy) -> Previous:
    """The dataset at `config.previous`.

    Args:
        config: of the new version.
        seed: of the new version.
        privacy: with the key of the new version.

    Raises:
        ValueError: nothing is published there, it was made otherwise, or the config needs all logs at once.
    """
    assert config.previous is not None
    refuse_what_needs_all_logs(config)
    previous, found = published(config.previous), manifest(config.previous, "dataset")
    there, wanted = _flat(found["data"]), _flat({**config.model_dump(mode="json"), "seed": seed})
    for key in sorted(there.keys() | wanted.keys()):
        if key not in MAY_DIFFER and there.get(key) != wanted.get(key):
            name = key if key == "seed" else f"data.{key}"
            raise ValueError(
                f"{name} is {wanted.get(key)!r}, and the previous dataset at {absolute(config.previous)} was made with "
                f"{there.get(key)!r}; expected the same: set {name} to that, or prepare all logs without data.previous"
            )
    if found["privacy"]["key_fingerprint"] != privacy.key_fingerprint:
        raise ValueError(
            f"the user ids of the previous dataset at {absolute(config.previous)} were made with another key "
            f"(fingerprint {found['privacy']['key_fingerprint']!r}, this one has {privacy.key_fingerprint!r}); "
            f"expected the same: put that key into {config.privacy.key_env}, or prepare all logs without data.previous"
        )
    return previous


def published(uri: str) -> Previous:
    """A dataset that another one goes on from.

    Raises:
        ValueError: nothing is published there.
    """
    found = manifest(uri, "dataset")
    return Previous(
        uri=absolute(uri),
        version=found["version"],
        buckets=found["buckets"],
        cutoffs=CutOffs(**found["cutoffs"]),
        files=found["files"],
        train=found["counts"]["rows"]["train"],
        ancestors=(*found["ancestors"], fingerprint(uri, "dataset")),
    )


def refuse_what_needs_all_logs(config: DataConfig) -> None:
    """Refuses settings that choose among all users at once, which new days alone cannot do.

    Raises:
        ValueError: one of them is set.
    """
    split, clean = config.split, config.clean
    needs_all = {
        "split.kind": (split.kind, "temporal"),
        "split.few_shot_users": (split.few_shot_users, None),
        "split.few_shot_interactions": (split.few_shot_interactions, None),
        "clean.min_user_events": (clean.min_user_events, 1),
        "clean.min_item_events": (clean.min_item_events, 1),
    }
    for key, (value, possible) in needs_all.items():
        if value != possible:
            raise ValueError(
                f"data.{key} is {value!r} and data.previous is set; a new version needs {possible!r}, for the other "
                "looks at all users at once: prepare all logs into one dataset without data.previous"
            )


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted key; what may differ anyway is not looked into."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) and name not in MAY_DIFFER else {name: value}
    return flat


def carry(work: Work, previous: Previous, number: int) -> Record:
    """Copies one of the files of `previous.carried()`, undecoded."""
    old, new = list(previous.carried().items())[number]
    return {"rows": 0, "files": work.write(new, previous.read_bytes(old))}


def events_of(histories: pa.Table, rule: LikeRule) -> pa.Table:
    """The events of a HISTORIES table as build() takes them; where a like came from a name, it gets such a name."""
    lists = {name: histories[name].combine_chunks() for name in ("items", "times", "likes", "ratings")}
    row_E = pc.list_parent_indices(lists["items"])
    likes_E, ratings_E = (lists[name].flatten().to_numpy() for name in ("likes", "ratings"))
    by_name_E = np.isnan(ratings_E) | (rule.like_threshold is None)
    liked, disliked = by_name_E & (likes_E == LIKED), by_name_E & (likes_E == DISLIKED)
    code_E = np.select([liked, disliked], [1, 2], 0)
    names = pa.array([None, [*rule.liked_events, None][0], [*rule.disliked_events, None][0]], pa.string())
    return pa.table(
        {
            "user_id": histories["user_id"].combine_chunks().take(row_E),
            "item": lists["items"].flatten(),
            "timestamp": lists["times"].flatten(),
            "rating": lists["ratings"].flatten(),
            "event": names.take(pa.array(code_E)),
        }
    )


def held(events: pa.Table, old: pa.Table) -> np.ndarray:
    """bool [E]: which events are among the old ones.

    Args:
        events: user_id, item, timestamp; E rows.
        old: the same columns.
    """
    if not len(old):
        return np.zeros(len(events), bool)
    users = pa.concat_arrays([table["user_id"].combine_chunks() for table in (old, events)]).dictionary_encode()
    keys = [np.concatenate([table[name].to_numpy() for table in (old, events)]) for name in ("item", "timestamp")]
    keys.append(users.indices.to_numpy())
    fresh = np.arange(len(users)) >= len(old)
    order = np.lexsort((fresh, *keys))
    begins = np.logical_or.reduce([np.diff(key[order], prepend=-1) != 0 for key in keys])
    begins[:1] = True
    # An old event sorts before new ones alike: it is the first of its group.
    first = order[np.flatnonzero(begins)[np.cumsum(begins) - 1]]
    found = np.empty(len(order), bool)
    found[order] = ~fresh[first]
    result: np.ndarray = found[len(old) :]
    return result
