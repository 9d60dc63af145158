"""The search for every trace of one user in a dataset: what a user is called, and how often that stands where."""

import io
import json
import re
from dataclasses import dataclass, field
from functools import partial

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from rayrec.data.door import USER_PREFIX
from rayrec.data.work import WORK, Record, Run
from rayrec.storage import absolute, join, read_bytes

USER_COLUMNS = ("user_id", "head", "tail", "record")
"""What says whose a row is: the user, an end of a triple, a refused row as JSON."""
LEAST_TELLING = 8
"""Characters of a name that is looked for in every text; a shorter one stands there by chance, and is looked for only
where ids of users stand."""


@dataclass(frozen=True)
class Who:
    """A user to be forgotten.

    Attributes:
        raw: the id in the logs.
        name: the id in the dataset.
    """

    raw: str = field(repr=False)
    name: str = field(repr=False)

    @property
    def ids(self) -> list[str]:
        """What may stand where a user's id, or an end of a triple, does."""
        return [prefix + name for name in (self.name, self.raw) for prefix in ("", USER_PREFIX)]

    @property
    def in_json(self) -> list[str]:
        """How it may stand in the record of a refused row."""
        ends = [json.dumps(f"{USER_PREFIX}{name}", ensure_ascii=False) for name in (self.name, self.raw)]
        return [f'"user_id": {json.dumps(name, ensure_ascii=False)}' for name in (self.name, self.raw)] + ends

    def pattern(self, item_ids: bool) -> str | None:
        """A regular expression of its names as whole words in any text, or None where both are too short to tell.

        Args:
            item_ids: the texts are ids of items, which may well be those of users.
        """
        names = {self.name, self.raw} if not item_ids else {self.name} - {self.raw}
        telling = sorted(re.escape(name) for name in names if len(name) >= LEAST_TELLING)
        return rf"(?:^|\W)(?:{'|'.join(telling)})(?:\W|$)" if telling else None


def scan(uri: str, who: Who, run: Run) -> Record:
    """Looks for a user's names in every file below a URI: in all strings of Parquet files, in the bytes of others.

    Args:
        uri: of a dataset, published or not; scratch files are passed over.
        who: the user.
        run: how tasks are run, each of one file.

    Returns:
        files and rows scanned, found (values or, of other files, files that name the user), where (found by path).
    """
    filesystem, root = fsspec.core.url_to_fs(absolute(uri))
    filesystem.invalidate_cache()
    below = sorted(path[len(root.rstrip("/")) + 1 :] for path in filesystem.find(root))
    paths = [path for path in below if not path.startswith(f"{WORK}/")]
    records = list(run(partial(scan_file, absolute(uri), who), paths, "forget: scanning"))
    where = {record["path"]: record["found"] for record in records if record["found"]}
    return {
        "files": len(records),
        "rows": sum(record["rows"] for record in records),
        "found": sum(where.values()),
        "where": dict(sorted(where.items())),
    }


def scan_file(uri: str, who: Who, path: str) -> Record:
    """How many values of a Parquet file name the user; of any other file, whether it does."""
    data = read_bytes(join(uri, path))
    if not path.endswith(".parquet"):
        return {"rows": 0, "found": int(in_bytes(data, who)), "path": path}
    file, rows, found = parquet.ParquetFile(io.BytesIO(data)), 0, 0
    for batch in file.iter_batches():
        rows += len(batch)
        found += sum(_named(name, column, who) for name, column in zip(batch.schema.names, batch.columns, strict=True))
    return {"rows": rows, "found": found, "path": path}


def _named(name: str, column: pa.Array, who: Who) -> int:
    """How many values of a column name the user."""
    if pa.types.is_list(column.type):
        column = column.flatten()
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not pa.types.is_string(column.type):
        return 0
    found = [pc.is_in(column, pa.array(who.ids))] if name in USER_COLUMNS else []
    found += [pc.match_substring(column, text) for text in who.in_json] if name == "record" else []
    pattern = who.pattern(item_ids=name == "item_id")
    found += [pc.match_substring_regex(column, pattern)] if pattern is not None else []
    hits = np.zeros(len(column), bool)
    for each in found:
        hits |= each.fill_null(False).to_numpy(zero_copy_only=False)
    return int(hits.sum())


def in_bytes(data: bytes, who: Who) -> bool:
    """Whether something that is no Parquet file names the user."""
    pattern = who.pattern(item_ids=False)
    return pattern is not None and re.search(pattern.encode(), data) is not None
