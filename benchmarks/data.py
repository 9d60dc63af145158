"""Interactions a second and peak memory of `rayrec prepare` beside DuckDB and Polars, same files, same run.

The job: read all files of synthetic logs; refuse bad rows and count them by reason; of exact repeats (user, item, time)
keep one; number the items; find two cut-offs in time, with 20 and 10 % of the interactions behind them; order every
user's events by time and keep the last 10,000; write as Parquet (zstd)
- histories: a user's last 1000 events with times, likes and ratings;
- training rows: what lies before the first cut-off, in chunks of 51 positions that overlap by 25;
- evaluation rows for each cut-off: the 50 events before it, what was met anew in the window after it, all items met
  before it;
- item counts and likes by day.

rayrec does more (see data_peers.py): texts, terms and profiles, redaction, quarantine, equal bytes for equal input, a
killed job that goes on. RecBole's loader does another job and is timed for its own sake (see data_recbole.py).
Each contender runs in a process of its own with two threads (rayrec: a Ray of two CPUs with an object store of 500 MB);
before each the logs are read once, so that all find them in the page cache. Seconds are those of the job: imports and
the start-up of Ray, its workers and Ray Data's actors (a phase that does nothing) are told apart as `setup_s`. The
counts of all outputs must agree, or nothing is written.

    python benchmarks/data.py --rows 10m                               # rayrec, duckdb, polars -> results/data-10m.json
    python benchmarks/data.py --rows 1m --contenders rayrec,recbole --recbole-python ENVIRONMENT/bin/python
    python benchmarks/data.py --rows 100m --no-texts                   # ids, times and ratings alone
    python benchmarks/table.py                                         # the tables of README.md

A contender that was measured before and is not named keeps its figures, if the logs and the commit are the same.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc
from memory import MB, Watch
from pyarrow import dataset
from synthetic_logs import START_MS, Size, write_logs

HERE = Path(__file__).parent
FOLDERS = ("histories", "rows/train", "rows/valid", "rows/test", "item_stats")
SUFFIXES = {"k": 1_000, "m": 1_000_000}
MEMORY_SHARE = 0.85
"""Of the machine's memory: a contender that takes more is ended, and that is its result."""

Result = dict[str, Any]


def rows_of(text: str) -> int:
    """10m -> 10,000,000."""
    return int(text[:-1]) * SUFFIXES[text[-1]] if text[-1:] in SUFFIXES else int(text)


def list_totals(column: pa.ChunkedArray, less: int = 0) -> tuple[int, int]:
    """How many values some lists hold, and the sum of what they are above `less`."""
    values = pc.list_flatten(column)
    return len(values), int(pc.sum(pc.subtract(values.cast(pa.int64()), less)).as_py() or 0)


def summary(out: Path) -> dict[str, dict[str, int]]:
    """What a contender wrote, in figures that do not depend on order or on how items are numbered.

    Args:
        out: its folder.
    """
    found = {}
    for folder in FOLDERS:
        counts: Counter[str] = Counter()
        for batch in dataset.dataset(out / folder).to_batches(batch_size=1 << 14):
            table = pa.table(batch)
            counts["rows"] += len(table)
            if folder == "item_stats":
                counts.update({name: int(pc.sum(table[name]).as_py()) for name in ("count", "likes")})
                continue
            size, likes = list_totals(table["likes"])
            counts.update({"events": size, "likes": likes})
            if folder == "histories":
                counts["times"] += list_totals(table["times"], START_MS)[1]
                continue
            context = int(pc.sum(table["first_target"]).as_py())
            counts.update({"targets": size - context, "context": context})
            if folder != "rows/train":
                counts.update({"seen": list_totals(table["seen"])[0], "as_of": int(pc.sum(table["as_of"]).as_py())})
        if folder == "rows/train":
            # Where equal times straddle a border, rayrec's context is another; targets are the same.
            del counts["events"], counts["context"], counts["likes"]
        found[folder] = dict(counts)
    return found


def command_of(name: str, logs: Path, out: Path, recbole_python: str | None) -> list[str]:
    """What to run for a contender."""
    if name in ("duckdb", "polars"):
        return [sys.executable, str(HERE / "data_peers.py"), name, str(logs), str(out)]
    if name == "recbole":
        if recbole_python is None:
            raise SystemExit("recbole needs an environment of its own (see data_recbole.py): give --recbole-python")
        return [recbole_python, "-W", "ignore", str(HERE / "data_recbole.py"), str(logs), str(out)]
    assert name == "rayrec", name
    return [sys.executable, str(HERE / "data_rayrec.py"), str(logs), str(out)]


def measure(name: str, command: list[str], out: Path, rows: int) -> Result:
    """Runs a contender in a process of its own.

    Args:
        name: for messages.
        command: to run.
        out: its folder, emptied first.
        rows: of the logs.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    log = out.with_suffix(".log")
    began = time.perf_counter()
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as started,
    ):
        watch = Watch(started, MEMORY_SHARE * psutil.virtual_memory().total)
        printed, _ = started.communicate()
        watch.stop()
    wall = time.perf_counter() - began
    result: Result = {"wall_s": round(wall, 1), "cpu_s": round(sum(watch.cpu_s.values()), 1), "peak_mb": watch.peaks_mb}
    if started.returncode != 0:
        limit = f"took more than {MEMORY_SHARE:.0%} of the machine's memory"
        reason = limit if watch.over_limit else f"exit code {started.returncode}, see {log}"
        print(f"{name}: failed after {wall:.0f} s: {reason}", file=sys.stderr)
        return {"failed": reason if watch.over_limit else f"exit code {started.returncode}", **result}
    told = json.loads(printed.strip().splitlines()[-1])
    seconds = sum(told["stages"].values())
    result = {"seconds": round(seconds, 2), "rows_per_s": round(rows / seconds), **result, **told}
    if "reasons" in told:
        result["written_mb"] = round(sum(path.stat().st_size for path in out.rglob("*.parquet")) / MB)
        result["counts"] = summary(out)
    rate, peaks = f"{result['rows_per_s']:,} rows/s", ", ".join(f"{key} {size}" for key, size in watch.peaks_mb.items())
    print(
        f"{name}: {seconds:.1f} s ({result['cpu_s']} of processors), {rate}, peak MB: {peaks}; {told['stages']}",
        file=sys.stderr,
    )
    return result


def disagreements(results: dict[str, Result]) -> list[str]:
    """Where outputs differ, one line a figure; reasons are compared by their counts, for each has its own names."""
    figures: dict[str, dict[str, Any]] = {}
    for name, result in results.items():
        if "counts" in result:
            for folder, counts in result["counts"].items():
                for figure, value in counts.items():
                    figures.setdefault(f"{folder} {figure}", {})[name] = value
            figures.setdefault("refused", {})[name] = sorted(result["reasons"].values())
    return [f"{figure}: {by_name}" for figure, by_name in figures.items() if len(set(map(str, by_name.values()))) > 1]


def machine() -> Result:
    """What the figures were taken on."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    memory = round(psutil.virtual_memory().total / (1 << 30))
    return {"cores": os.cpu_count(), "memory_gib": memory, "processor": names[0] if names else platform.machine()}


def git(*arguments: str) -> str:
    """What git says of this checkout."""
    return subprocess.run(
        ["git", "-C", str(HERE), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def run(size: Size, contenders: list[str], folder: Path, recbole_python: str | None) -> dict[str, Result]:
    """Writes the logs where they are not there yet and measures one contender after the other.

    Args:
        size: of the logs.
        contenders: names.
        folder: for logs and outputs.
        recbole_python: an interpreter that has recbole.
    """
    logs = folder / f"logs-{size.rows}{'' if size.texts else '-ids'}"
    print(f"logs of {size.rows:,} interactions in {logs}", file=sys.stderr)
    dirt = write_logs(logs, size)
    results = {}
    for name in contenders:
        if name == "recbole":
            from data_recbole import atomic_file

            atomic_file(logs)
        for path in logs.rglob("*"):
            if path.is_file():
                path.read_bytes()
        out = folder / f"out-{name}"
        results[name] = measure(name, command_of(name, logs, out, recbole_python), out, size.rows)
        shutil.rmtree(out, ignore_errors=True)
    refused = sorted(count for reason, count in dirt.items() if reason != "exact repeat")
    for name, result in results.items():
        if "reasons" in result and sorted(result["reasons"].values()) != refused:
            raise SystemExit(f"{name} refused {result['reasons']}, planted were {dirt}")
    return results


def kept(path: Path, config: Result, commit: str) -> dict[str, Result]:
    """Results of an earlier run on the same logs and commit."""
    if not path.exists():
        return {}
    old = json.loads(path.read_text())
    return old["contenders"] if (old["config"], old["commit"]) == (config, commit) else {}


def main() -> None:
    """Measures and writes a result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", required=True, help="such as 1m, 10m, 30m")
    parser.add_argument("--no-texts", action="store_true", help="ids, times and ratings alone")
    parser.add_argument("--contenders", default="rayrec,duckdb,polars")
    parser.add_argument("--out", type=Path, help="the result; results/data-ROWS.json by default")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "rayrec-benchmark")
    parser.add_argument("--recbole-python", help="an interpreter that has recbole and what it imports")
    options = parser.parse_args()
    size = Size(rows_of(options.rows), texts=not options.no_texts)
    label = f"data-{options.rows}{'-ids' if options.no_texts else ''}"
    path = options.out or HERE / "results" / f"{label}.json"
    commit, config = git("rev-parse", "HEAD"), {**asdict(size), "threads": 2, "object_store_mb": 500}

    measured = run(size, options.contenders.split(","), options.folder, options.recbole_python)
    results = kept(path, config, commit) | measured
    differences = disagreements(results)
    if differences:
        raise SystemExit("outputs differ, nothing is written:\n" + "\n".join(differences))
    result = {
        "question": "interactions a second and peak memory of preparing a dataset",
        "commit": commit,
        "changed_since_commit": bool(git("status", "--porcelain", "--", ":/rayrec", ":/benchmarks/*.py")),
        "seed": size.seed,
        "machine": machine(),
        "versions": {"python": platform.python_version()},
        "config": config,
        "contenders": results,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: entry.get("rows_per_s") for name, entry in results.items()}))


if __name__ == "__main__":
    main()
