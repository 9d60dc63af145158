"""The benchmarks' own parts: synthetic logs, what is compared, memory, the tables of benchmarks/README.md."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import dataset, parquet

from rayrec.config import load_config
from rayrec.stages import RunConfig

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))
NAMES = ("synthetic_logs", "data", "datasets", "memory", "table")
synthetic_logs, data, datasets, memory, table = map(importlib.import_module, NAMES)

ENTRY = {
    "seconds": 20.04,
    "rows_per_s": 500_000,
    "cpu_s": 31.2,
    "wall_s": 22.0,
    "peak_mb": {"driver": 300, "worker": 400, "workers": 800, "services": 250, "total": 1350},
    "stages": {"interactions": 12.04, "driver": 8.0},
    "setup_s": 7.31,
    "versions": {"ray": "2.60.0"},
}
RESULT = {
    "commit": "0123456789",
    "changed_since_commit": False,
    "seed": 0,
    "machine": {"cores": 2, "memory_gib": 24, "processor": "a processor"},
    "versions": {"python": "3.11.7"},
    "config": {"rows": 10_000_000, "texts": True},
    "contenders": {
        "recbole": {"failed": "exit code 1", "wall_s": 61.0, "cpu_s": 60.0, "peak_mb": {"driver": 9, "total": 9}},
        "polars": {**ENTRY, "rows_per_s": 400_000, "peak_mb": {"driver": 1900, "total": 1900}},
        "duckdb": {**ENTRY, "rows_per_s": 625_000, "peak_mb": {"driver": 1500, "total": 1500}},
        "rayrec": ENTRY,
    },
}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """Logs in three files, and what was planted."""
    folder = tmp_path_factory.mktemp("logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_logs, "ROWS_PER_FILE", 16_000)
        planted = synthetic_logs.write_logs(folder, synthetic_logs.Size(40_000))
    return folder, planted


def test_planted_dirt_is_there_and_nothing_else(logs: tuple[Path, dict[str, int]]) -> None:
    folder, planted = logs
    events = dataset.dataset(folder / "interactions").to_table()
    known = dataset.dataset(folder / "items").to_table()["item_id"]
    time = events["timestamp"]
    faults = {
        "no user_id": pc.is_null(events["user_id"]),
        "no item_id": pc.is_null(events["item_id"]),
        "no timestamp": pc.is_null(time),
        "timestamp before 1970": pc.less(time, 0),
        "timestamp after 2099": pc.greater(time, 4_102_444_800_000),
        "rating is NaN": pc.is_nan(events["rating"]),
        "unknown item": pc.and_(pc.is_valid(events["item_id"]), pc.invert(pc.is_in(events["item_id"], known))),
    }
    counts = {name: pc.sum(fault).as_py() for name, fault in faults.items()}
    keys = events.select(["user_id", "item_id", "timestamp"]).group_by(["user_id", "item_id", "timestamp"])
    counts["exact repeat"] = len(events) - len(keys.aggregate([]))
    assert len(events) == 40_000
    assert counts == planted
    assert sum(planted.values()) == 200
    assert min(planted.values()) >= 24
    bad = np.sum([fault.fill_null(False).to_numpy() for fault in faults.values()], axis=0)
    assert bad.max() == 1, "a row is dirty in one way"


def test_some_repeats_are_of_an_earlier_file(logs: tuple[Path, dict[str, int]]) -> None:
    files = [parquet.read_table(path) for path in sorted((logs[0] / "interactions").glob("*"))]
    assert [len(file) for file in files] == [16_000, 16_000, 8_000]
    first, second = ({*zip(*(file[name].to_pylist() for name in file.column_names), strict=True)} for file in files[:2])
    assert len(first & second) == 5


def test_users_and_items_are_skewed_and_files_follow_time(logs: tuple[Path, dict[str, int]]) -> None:
    files = [parquet.read_table(path) for path in sorted((logs[0] / "interactions").glob("*"))]
    events = pa.concat_tables(files)
    users, items = (
        np.sort(pc.value_counts(events[name].drop_null()).field("counts").to_numpy())[::-1]
        for name in ("user_id", "item_id")
    )
    assert len(users) == 400
    assert users[0] > 8 * users.mean()
    assert np.median(users) < users.mean() / 1.5
    assert items[0] == pytest.approx(40_000 * np.log(2) / np.log(801), rel=0.05)
    middle = [pc.approximate_median(file["timestamp"]).as_py() for file in files]
    assert middle == sorted(middle)


def test_logs_are_the_same_again_and_are_not_written_twice(logs: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    size = synthetic_logs.Size(3_000)
    synthetic_logs.write_logs(tmp_path / "a", size)
    synthetic_logs.write_logs(tmp_path / "b", size)
    paths = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.parquet"))
    assert [str(path) for path in paths] == ["interactions/part-00000.parquet", "items/part-00000.parquet"]
    assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in paths)
    (tmp_path / "a" / paths[0]).write_bytes(b"left alone")
    synthetic_logs.write_logs(tmp_path / "a", size)
    assert (tmp_path / "a" / paths[0]).read_bytes() == b"left alone"
    synthetic_logs.write_logs(tmp_path / "a", synthetic_logs.Size(3_000, seed=1))
    assert (tmp_path / "a" / paths[0]).read_bytes() != (tmp_path / "b" / paths[0]).read_bytes()


def test_one_item_in_a_hundred_has_a_text_with_personal_data(logs: tuple[Path, dict[str, int]]) -> None:
    texts = dataset.dataset(logs[0] / "items").to_table()["text"].drop_null().to_pylist()
    assert len(texts) == 8
    assert all("@example.com" in text and "4111 1111" in text and len(text) > 1_000 for text in texts)
    bare = synthetic_logs.item_table(synthetic_logs.Size(40_000, texts=False))
    assert bare.column_names == ["item_id", "title"]


def written(folder: Path, split_offset: int = 0) -> Path:
    """What a contender writes for one user: two events in training, a test target."""
    rows = {"user_id": ["u"], "as_of": [5], "items": [[0, 1]], "likes": [[1, 0]], "first_target": [0], "seen": [[0]]}
    tables = {
        "histories": {"user_id": ["u"], "times": [[data.START_MS + 3, data.START_MS + 4]], "likes": [[1, 0]]},
        "rows/train": rows,
        "rows/valid": {**rows, "first_target": [1]},
        "rows/test": {**rows, "first_target": [1 + split_offset]},
        "item_stats": {"item": [0, 1], "count": [3, 1], "likes": [1, 0]},
    }
    for name, columns in tables.items():
        (folder / name).mkdir(parents=True)
        parquet.write_table(pa.table(columns), folder / name / "part-0.parquet")
    return folder


def test_summary_of_what_was_written(tmp_path: Path) -> None:
    assert data.summary(written(tmp_path)) == {
        "histories": {"rows": 1, "events": 2, "likes": 1, "times": 7},
        "rows/train": {"rows": 1, "targets": 2},
        "rows/valid": {"rows": 1, "events": 2, "likes": 1, "targets": 1, "context": 1, "seen": 1, "as_of": 5},
        "rows/test": {"rows": 1, "events": 2, "likes": 1, "targets": 1, "context": 1, "seen": 1, "as_of": 5},
        "item_stats": {"rows": 2, "count": 4, "likes": 1},
    }


def test_a_disagreement_is_named(tmp_path: Path) -> None:
    results = {
        name: {"counts": data.summary(written(tmp_path / name, offset)), "reasons": reasons}
        for name, offset, reasons in (("rayrec", 0, {"no user": 2}), ("duckdb", 1, {"null user": 2}))
    }
    found = data.disagreements({**results, "recbole": {"sequences": [3]}})
    assert sorted(line.split(":")[0] for line in found) == ["rows/test context", "rows/test targets"]
    assert data.disagreements({"rayrec": results["rayrec"]}) == []
    results["duckdb"]["reasons"] = {"null user": 3}
    assert any(line.startswith("refused") for line in data.disagreements(results))


def test_sizes() -> None:
    assert [data.rows_of(text) for text in ("10m", "30k", "7")] == [10_000_000, 30_000, 7]


def test_peak_memory_is_seen_and_a_limit_holds() -> None:
    code = "import time; block = bytes(range(256)) * 400_000; time.sleep(1.5)"
    with subprocess.Popen([sys.executable, "-c", code], text=True) as started:
        watch = memory.Watch(started, 1e12)
        assert started.wait() == 0
        watch.stop()
    assert 100 < watch.peaks_mb["driver"] < 140
    assert watch.peaks_mb["driver"] == watch.peaks_mb["total"]
    assert not watch.over_limit
    with subprocess.Popen([sys.executable, "-c", code], text=True) as started:
        watch = memory.Watch(started, 50e6)
        assert started.wait() < 0
        watch.stop()
    assert watch.over_limit


def test_the_table_says_what_the_result_says(tmp_path: Path) -> None:
    (tmp_path / "data-10m.json").write_text(json.dumps(RESULT))
    lines = table.data_tables(tmp_path)
    assert lines[2:6] == [
        "| 10 M | rayrec | 20.0 | 500,000 | 0.80 | 31 | 1,350 | 300 | 400 | 800 | 250 |",
        "| 10 M | duckdb | 20.0 | 625,000 | 1.00 | 31 | 1,500 | 1,500 |  |  |  |",
        "| 10 M | polars | 20.0 | 400,000 | 0.64 | 31 | 1,900 | 1,900 |  |  |  |",
        "| 10 M | recbole | exit code 1 after 61 s |  |  | 60 | 9 | 9 |  |  |  |",
    ]
    assert "| 10 M | rayrec | interactions 12.0, driver 8.0 |" in lines
    assert lines[-1] == (
        "- 10 M: commit 0123456, 2 cores (a processor), 24 GiB, seed 0, Ray started in 7.3 s, python 3.11.7, ray 2.60.0"
    )


def test_larger_logs_and_those_without_texts_come_later(tmp_path: Path) -> None:
    sizes: list[tuple[int, bool]] = [(2_000_000, False), (30_000_000, True), (1_000_000, True)]
    for number, (rows, texts) in enumerate(sizes):
        result: dict[str, Any] = {**RESULT, "config": {"rows": rows, "texts": texts}}
        (tmp_path / f"data-{number}.json").write_text(json.dumps(result))
    about = [line for line in table.data_tables(tmp_path) if line.startswith("- ")]
    assert [line.split(":")[0] for line in about] == ["- 1 M", "- 30 M", "- 2 M, ids only"]


def write_films(folder: Path) -> None:
    """40 users who rate 12 of 30 films each, a film a day; one film told twice, one rating twice, one without time."""
    seen = [(user, place) for user in range(40) for place in range(12)]
    ratings = [f"{user},{(user * 7 + place * 3) % 30},4.0,{86_400 * (12_000 + user + place)}" for user, place in seen]
    films = [f"{film},Film {film} (2000),Drama" for film in range(30)]
    folder.mkdir()
    tables = {
        "ratings": ["userId,movieId,rating,timestamp", *ratings, ratings[0], "0,1,4.0,?"],
        "movies": ["movieId,title,genres", *films, "3,Film Three,Drama"],
    }
    for name, lines in tables.items():
        (folder / f"{name}.csv").write_text("\n".join([*lines, ""]))


def test_sets_are_counted_and_those_that_are_not_there_are_told(tmp_path: Path) -> None:
    configs = {path.stem: load_config(RunConfig, str(path)) for path in datasets.CONFIGS.glob("*.yaml")}
    missing = {name: datasets.missing_files(config, tmp_path / "a") for name, config in configs.items()}
    assert missing.pop("movielens-100k") == [], "comes with a package"
    assert all(uri.startswith(f"data/{name}") for name, uris in missing.items() for uri in uris)
    assert all(missing.values())
    counted = []
    for place in (tmp_path / "a", tmp_path / "b"):
        place.mkdir()
        write_films(place / "movielens-latest-small")
        assert datasets.missing_files(configs["movielens-latest-small"], place) == []
        counted.append(datasets.prepared(configs["movielens-latest-small"], place))
    counts = counted[0]["counts"]
    assert counts["interactions"]["read"] == 482
    assert counts["interactions"]["filtered"]["exact repeat"] == 1
    assert counts["interactions"]["quarantined"] == {"timestamp missing or not a number": 1}
    assert counts["interactions"]["kept"] == 480
    assert counts["items"]["read"] == 31
    assert counts["items"]["filtered"]["item told again with another text"] == 1
    assert (counts["users"], counted[0]["num_items"]) == (40, 30)
    assert counted[0]["manifest_sha256"] == counted[1]["manifest_sha256"]
    (tmp_path / "datasets.json").write_text(
        json.dumps({**RESULT, "sets": {"films": counted[0]}, "absent": {"x": ["y"]}})
    )
    lines = table.dataset_tables(tmp_path)
    assert lines[2].startswith("| films | temporal | 0 | 40 | 30 | ")
    shares = [f" {counts['rows'][split]['rows']} / {counts['rows'][split]['targets']} " for split in counts["rows"]]
    assert all(share in lines[2].split("|") for share in shares)
    assert lines[2].endswith(f" | {counted[0]['manifest_sha256'][:12]} |")
    assert lines[6:8] == [
        "| films | interactions | 482 | 480 | exact repeat 1 | timestamp missing or not a number 1 |",
        "| films | items | 31 | 30 | item told again with another text 1 | 0 |",
    ]
    assert lines[-1] == "- Not there, so not counted: x"


OTHER_BLOCKS = ("datasets", "protocols", "quality", "faults", "checkpoints", "scaling", "tune", "cost_model")


def test_blocks_are_filled_and_the_rest_is_left_alone(tmp_path: Path) -> None:
    readme = "Before.\n<!-- data -->\nold\n<!-- end -->\nBetween.\n<!-- reader -->\n<!-- end -->\nAfter.\n"
    readme += "".join(f"<!-- {name} -->\n<!-- end -->\n" for name in OTHER_BLOCKS)
    (tmp_path / "data-10m.json").write_text(json.dumps(RESULT))
    new = table.filled(readme, tmp_path)
    assert "old" not in new
    assert new.startswith("Before.\n<!-- data -->\n| interactions | by |")
    assert "<!-- end -->\nBetween.\n<!-- reader -->\nNot measured yet.\n<!-- end -->\nAfter.\n" in new
    assert table.filled(new, tmp_path) == new
    with pytest.raises(ValueError, match=f"expected {', '.join(table.BLOCKS)}, each once"):
        table.filled("no block", tmp_path)


def test_readme_holds_the_tables_of_the_results() -> None:
    readme = table.README.read_text(encoding="utf-8")
    assert readme == table.filled(readme, table.RESULTS), "run python benchmarks/table.py"
