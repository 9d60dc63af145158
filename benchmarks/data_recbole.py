"""RecBole's own loader on the logs of data.py; prints one line of JSON.

It has another job: from clean rows in its own kind of file, which is made outside the timing, it numbers users and
items, makes one sequence of 50 items a position, in memory, and holds out each user's last two; it writes nothing.
It wants NumPy 1 and pandas 2, so it runs in an environment of its own, with recbole==1.2.1 and what it imports.

    python benchmarks/data_recbole.py LOGS OUT
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_peers import HISTORY_LENGTH, LATEST_MS, THREADS, Clock

NAME = "recbole"
COLUMNS = {
    "user_id:token": "user_id",
    "item_id:token": "item_id",
    "rating:float": "rating",
    "timestamp:float": "timestamp",
}


def atomic_file(logs: Path) -> Path:
    """Writes the good rows of some logs as RecBole's own kind of file, once.

    Args:
        logs: from synthetic_logs.py.

    Returns:
        Its path, below the logs.
    """
    import pyarrow.compute as pc
    from pyarrow import csv, dataset

    path = logs / NAME / f"{NAME}.inter"
    if path.exists():
        return path
    path.parent.mkdir(exist_ok=True)
    time, rating = pc.field("timestamp"), pc.field("rating")
    good = pc.is_valid(pc.field("user_id")) & (pc.field("item_id") != "gone") & pc.is_finite(rating)
    good &= (time >= 0) & (time < LATEST_MS)
    columns = {name: pc.field(column) for name, column in COLUMNS.items()}
    options = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write("\t".join(COLUMNS).encode() + b"\n")
        for batch in dataset.dataset(logs / "interactions").scanner(columns=columns, filter=good).to_batches():
            csv.write_csv(batch, file, options)
    part.rename(path)
    return path


def recbole_job(logs: Path, out: Path) -> dict[str, Any]:
    """RecBole's sequential dataset and its split.

    Args:
        logs: from synthetic_logs.py, after atomic_file().
        out: where RecBole may write.
    """
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset

    torch.set_num_threads(THREADS)
    settings = {
        "data_path": str(logs),
        "checkpoint_dir": str(out),
        "load_col": {"inter": list(COLUMNS.values())},
        "MAX_ITEM_LIST_LENGTH": HISTORY_LENGTH,
        "train_neg_sample_args": None,
    }
    clock = Clock()
    dataset = create_dataset(Config(model="SASRec", dataset=NAME, config_dict=settings))
    clock.lap("load and number")
    parts = dataset.build()
    clock.lap("sequences and split")
    return {"stages": clock.seconds, "sequences": [len(part) for part in parts]}


if __name__ == "__main__":
    told = recbole_job(*map(Path, sys.argv[1:]))
    print(json.dumps({**told, "versions": {name: version(name) for name in (NAME, "numpy", "pandas", "torch")}}))
