"""Writes the tables of benchmarks/README.md from results/*.json; tests/unit/test_benchmarks.py compares them.

python benchmarks/table.py
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from table_parts import Result, about, table
from table_quality import quality_tables
from table_training import checkpoint_table, cost_tables, fault_table, scaling_table, search_table

HERE = Path(__file__).parent
README = HERE / "README.md"
RESULTS = HERE / "results"
PEERS = ("duckdb", "polars")
CONTENDERS = ("rayrec", *PEERS, "recbole")
MEMORY = ("total", "driver", "worker", "workers", "services")
SPLITS = ("train", "valid", "test")
TABLES = ("interactions", "items", "user_records", "impressions", "triples")


def load(folder: Path, pattern: str) -> list[Result]:
    """Results by size, those without texts last."""
    results = [json.loads(path.read_text()) for path in folder.glob(pattern)]
    return sorted(results, key=lambda result: (not result["config"]["texts"], result["config"]["rows"]))


def size_of(result: Result) -> str:
    """30 M, or 100 M, ids only."""
    return f"{result['config']['rows'] / 1e6:g} M" + ("" if result["config"]["texts"] else ", ids only")


def data_tables(folder: Path) -> list[str]:
    """How fast and with how much memory a dataset is prepared, where the time goes, and on what it was measured.

    Args:
        folder: of the results.
    """
    results = load(folder, "data-*.json")
    if not results:
        return []
    speed, stages, notes = [], [], []
    for result in results:
        contenders = result["contenders"]
        rates = [contenders[name]["rows_per_s"] for name in PEERS if "rows_per_s" in contenders.get(name, {})]
        for name in (name for name in CONTENDERS if name in contenders):
            entry = contenders[name]
            speed.append([size_of(result), name, *_speed_cells(entry, max(rates, default=None))])
            if "stages" in entry:
                costs = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in entry["stages"].items())
                stages.append([size_of(result), name, costs])
        notes.append(f"- {size_of(result)}: {about(result)}")
    memory = [f"{name}, MB" for name in ("all", "driver", "largest worker", "workers", "services")]
    return [
        *table(["interactions", "by", "s", "rows/s", "of the faster peer", "processor s", *memory], speed),
        "",
        *table(["interactions", "by", "seconds by stage"], stages),
        "",
        *notes,
    ]


def _speed_cells(entry: Result, fastest: float | None) -> list[str]:
    memory = [f"{entry['peak_mb'][name]:,}" if name in entry["peak_mb"] else "" for name in MEMORY]
    if "failed" in entry:
        return [f"{entry['failed']} after {entry['wall_s']:.0f} s", "", "", f"{entry['cpu_s']:.0f}", *memory]
    share = f"{entry['rows_per_s'] / fastest:.2f}" if fastest else ""
    return [f"{entry['seconds']:.1f}", f"{entry['rows_per_s']:,}", share, f"{entry['cpu_s']:.0f}", *memory]


def reader_table(folder: Path) -> list[str]:
    """Rows a second of the reader beside a raw scan.

    Args:
        folder: of the results.
    """
    path = folder / "reader.json"
    if not path.exists():
        return []
    result = json.loads(path.read_text())
    rows = [
        [
            str(entry["processes"]),
            f"{entry['reader_rows_per_s']:,}",
            f"{entry['scan_rows_per_s']:,}",
            f"{entry['ratio']:.2f} ({' to '.join(f'{share:.2f}' for share in entry['ratio_range'])})",
            f"{entry['start_up_s']:.2f}",
        ]
        for entry in result["results"]
    ]
    return table(["processes", "reader, rows/s", "raw scan, rows/s", "ratio (range)", "start-up, s"], rows)


def dataset_tables(folder: Path) -> list[str]:
    """What every real set became, and what became of each row of its tables.

    Args:
        folder: of the results.
    """
    path = folder / "datasets.json"
    if not path.exists():
        return []
    result = json.loads(path.read_text())
    sets, tables = [], []
    for name, made in result["sets"].items():
        counts = made["counts"]
        splits = [f"{counts['rows'][split]['rows']:,} / {counts['rows'][split]['targets']:,}" for split in SPLITS]
        split = made["config"]["data"]["split"]["kind"].replace("_", " ") + ", order only" * made["order_only"]
        shape = [str(made["config"]["seed"]), f"{counts['users']:,}", f"{made['num_items']:,}", *splits]
        sets.append([name, split, *shape, f"{made['seconds']:.1f}", made["manifest_sha256"][:12]])
        for table_name in (table_name for table_name in TABLES if table_name in counts):
            entry = counts[table_name]
            dropped = [_reasons(entry[kind]) for kind in ("filtered", "quarantined")]
            tables.append([name, table_name.replace("_", " "), f"{entry['read']:,}", f"{entry['kept']:,}", *dropped])
    splits = [f"{split}, rows / targets" for split in SPLITS]
    absent = ", ".join(result["absent"])
    return [
        *table(["set", "split", "seed", "users", "items", *splits, "s", "manifest"], sets),
        "",
        *table(["set", "table", "read", "kept", "filtered", "quarantined"], tables),
        "",
        f"- {about(result)}",
        *([f"- Not there, so not counted: {absent}"] if absent else []),
    ]


def protocol_tables(folder: Path) -> list[str]:
    """Our scorers beside published figures, under the protocols of those.

    Args:
        folder: of the results.
    """
    path = folder / "protocols.json"
    if not path.exists():
        return []
    result = json.loads(path.read_text())
    films, shots = result["protocols"]["movielens-100k"], result["protocols"]["tallrec-movie"]
    ours = [(name, f"{one['ndcg']['mean']:.3f} ± {one['ndcg']['sd']:.3f}") for name, one in films["systems"].items()]
    theirs = [(f"{name} (published)", f"{ndcg:.3f}") for name, ndcg in films["published_ndcg"].items()]
    found = [
        (f"like-share, {name.replace('_', ' ')}", f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]")
        for name, one in shots["like_share"].items()
    ]
    published = [(f"{name} (published AUC)", f"{auc:.3f}") for name, auc in shots["published_auc"].items()]
    return [
        f"MovieLens-100K, {len(films['seeds'])} seeds: {films['protocol']}.",
        "",
        *table(["system", "NDCG@10, mean ± sd over seeds"], [*ours, *theirs]),
        "",
        f"TALLRec's films: {shots['protocol']}.",
        "",
        *table(["", "mean [95 %]"], [*found, *published]),
        "",
        f"- {films['note']}",
        f"- {shots['note']}",
        f"- {about(result)}",
    ]


def _reasons(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.items() if count) or "0"


BLOCKS: dict[str, Callable[[Path], list[str]]] = {
    "datasets": dataset_tables,
    "data": data_tables,
    "reader": reader_table,
    "protocols": protocol_tables,
    "quality": quality_tables,
    "faults": fault_table,
    "checkpoints": checkpoint_table,
    "scaling": scaling_table,
    "tune": search_table,
    "cost_model": cost_tables,
}
"""What stands between `<!-- NAME -->` and `<!-- end -->` in the README."""


def filled(readme: str, folder: Path) -> str:
    """The README with its tables.

    Args:
        readme: its text.
        folder: of the results.

    Raises:
        ValueError: a block is missing or unknown.
    """
    blocks = re.findall(r"<!-- (?!end)(\w+) -->", readme)
    if sorted(blocks) != sorted(BLOCKS):
        raise ValueError(f"README.md has blocks {', '.join(blocks)}; expected {', '.join(BLOCKS)}, each once")
    for name, write in BLOCKS.items():
        text = "\n".join([f"<!-- {name} -->", *(write(folder) or ["Not measured yet."]), "<!-- end -->"])
        before, _, rest = readme.partition(f"<!-- {name} -->")
        readme = before + text + rest.partition("<!-- end -->")[2]
    return readme


def main() -> None:
    """Rewrites the README's tables."""
    README.write_text(filled(README.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")


if __name__ == "__main__":
    main()
