"""The job: killed anywhere and run again it gives the same bytes; however the logs are cut, the same rows."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from rayrec.data.config import DataConfig, PrivacyConfig
from rayrec.data.dataset import Dataset
from rayrec.data.job import prepare
from rayrec.data.sources.config import ColumnsSource
from rayrec.data.work import Result, Task, in_process
from rayrec.storage import verify
from tests.synthetic import PLAIN, generate, write

LOGS = generate(num_users=30, num_items=30, num_interactions=600)
KEY = "RAYREC_TEST_KEY"


class KilledError(Exception):
    """Instead of SIGKILL."""


class Killer:
    """Runs tasks here until a number of them is done, and counts them by phase."""

    def __init__(self, after: int | None = None) -> None:
        self.left = after
        self.titles: list[str] = []

    def __call__(self, function: Callable[[Task], Result], tasks: Sequence[Task], title: str) -> Iterator[Result]:
        for task in tasks:
            if self.left == 0:
                raise KilledError
            self.left = None if self.left is None else self.left - 1
            result = function(task)
            self.titles.append(title)
            yield result


def logs_in_parts(folder: Path, order: Sequence[int] = range(4), groups: int = 60) -> ColumnsSource:
    """The logs, their interactions in four files named in some order."""
    source = write(LOGS, folder)
    (folder / "interactions.parquet").unlink()
    for place, part in enumerate(order):
        table = LOGS.interactions.slice(part * 150, 150)
        parquet.write_table(table, folder / f"interactions-{place}.parquet", row_group_size=groups)
    return source.model_copy(update={"interactions": f"{folder}/interactions-*.parquet"})


def made(source: ColumnsSource, folder: Path, run: Any = in_process, **settings: Any) -> dict[str, Any]:
    config = DataConfig(source=source, **{"privacy": PLAIN, "buckets": 3, **settings})
    return prepare(config, str(folder), seed=0, provenance={"code": "test"}, run=run)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[ColumnsSource, dict[str, Any], list[str]]:
    """The logs, the manifest of a job that nobody killed, and the phases of its tasks."""
    folder = tmp_path_factory.mktemp("undisturbed")
    source, run = logs_in_parts(folder / "logs"), Killer()
    return source, made(source, folder / "dataset", run), run.titles


def test_killed_after_any_task_and_run_again_it_redoes_only_what_is_missing(
    undisturbed: tuple[ColumnsSource, dict[str, Any], list[str]], tmp_path: Path
) -> None:
    source, manifest, titles = undisturbed
    assert len(titles) > 10
    for after in range(len(titles)):
        folder = tmp_path / str(after)
        with pytest.raises(KilledError):
            made(source, folder, Killer(after))
        assert not (folder / "manifest.json").exists()
        again = Killer()
        assert made(source, folder, again) == manifest
        verify(str(folder), "dataset")
        fresh = [title for title in again.titles if not title.endswith("looking")]
        assert fresh == titles[after:]
        assert not (folder / "_work").exists()


def test_killed_while_a_task_is_under_way_it_ends_in_the_same_bytes(
    undisturbed: tuple[ColumnsSource, dict[str, Any], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, manifest, titles = undisturbed
    rename = os.replace
    for after in range(len(titles)):
        left = [after]

        def killed(*paths: Any, left: list[int] = left) -> None:
            if paths[1].endswith(".json"):
                if left[0] == 0:
                    raise KilledError  # the task's files lie there, its record does not
                left[0] -= 1
            rename(*paths)

        folder = tmp_path / str(after)
        monkeypatch.setattr(os, "replace", killed)
        with pytest.raises(KilledError):
            made(source, folder)
        monkeypatch.setattr(os, "replace", rename)
        assert made(source, folder) == manifest
        verify(str(folder), "dataset")


@pytest.mark.parametrize("torn", [b"", b"half", None], ids=["empty", "other bytes", "cut short"])
def test_scratch_that_is_torn_is_made_again(
    torn: bytes | None, undisturbed: tuple[ColumnsSource, dict[str, Any], list[str]], tmp_path: Path
) -> None:
    source, manifest, titles = undisturbed
    with pytest.raises(KilledError):
        made(source, tmp_path, Killer(len(titles) - 1))
    (scratch,) = tmp_path.glob("_work/*/interactions/000002-00000.slices")
    scratch.write_bytes(scratch.read_bytes()[:-7] if torn is None else torn)
    again = Killer()
    assert made(source, tmp_path, again) == manifest
    assert [title for title in again.titles if not title.endswith("looking")] == ["interactions", titles[-1]]


def test_logs_that_changed_meanwhile_are_read_anew(tmp_path: Path) -> None:
    source = logs_in_parts(tmp_path / "logs")
    with pytest.raises(KilledError):
        made(source, tmp_path / "dataset", Killer(8))
    (stale,) = (tmp_path / "dataset" / "_work").iterdir()
    parquet.write_table(LOGS.interactions.slice(0, 50), tmp_path / "logs" / "interactions-9.parquet")
    counts = made(source, tmp_path / "dataset")["counts"]["interactions"]
    assert (counts["read"], counts["filtered"]["exact repeat"]) == (650, 50)
    assert not stale.exists()


def test_a_log_file_rewritten_to_the_same_size_meanwhile_is_read_anew(tmp_path: Path) -> None:
    source, file = logs_as_csv(tmp_path / "logs"), tmp_path / "logs" / "interactions.csv"
    with pytest.raises(KilledError):
        made(source, tmp_path / "dataset", Killer(8))
    before = file.read_bytes()
    file.write_bytes(before.replace(b"user-00001", b"user-99999"))
    assert len(before) == file.stat().st_size
    assert before != file.read_bytes()
    os.utime(file, (0, file.stat().st_mtime + 1))
    assert made(source, tmp_path / "dataset") == made(source, tmp_path / "fresh")


def logs_as_csv(folder: Path) -> ColumnsSource:
    """The logs as comma-separated text, titles without commas."""
    folder.mkdir()
    kept = {"interactions": ["user_id", "item_id", "timestamp"], "items": ["item_id", "title"], "users": ["user_id"]}
    for name, columns in kept.items():
        csv.write_csv(getattr(LOGS, name).select(columns), folder / f"{name}.csv")
    return ColumnsSource(kind="columns", **{name: str(folder / f"{name}.csv") for name in kept})


def test_a_file_without_a_byte_among_others_says_nothing(tmp_path: Path) -> None:
    source = logs_as_csv(tmp_path / "logs")
    whole = made(source, tmp_path / "whole")
    (tmp_path / "logs" / "interactions-0.csv").write_bytes(b"")
    source = source.model_copy(update={"interactions": f"{tmp_path}/logs/interactions*.csv"})
    assert made(source, tmp_path / "dataset")["files"] == whole["files"]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_table_without_rows_stops_nothing_unless_it_is_needed(suffix: str, tmp_path: Path) -> None:
    def empty(name: str) -> None:
        if suffix == "csv":
            csv.write_csv(pa.table({"user_id": [], "item_id": [], "timestamp": [], "title": []}), path(name))
        else:
            parquet.write_table(getattr(LOGS, name).slice(0, 0), path(name))

    def path(name: str) -> Path:
        return tmp_path / "logs" / f"{name}.{suffix}"

    source = write(LOGS, tmp_path / "logs") if suffix == "parquet" else logs_as_csv(tmp_path / "logs")
    empty("users")
    counts = made(source, tmp_path / "dataset")["counts"]
    assert counts["interactions"]["kept"] == 600
    for name in ("items", "interactions"):
        kept = path(name).read_bytes()
        empty(name)
        with pytest.raises(ValueError, match=f"the logs hold no {name}; expected at least one row"):
            made(source, tmp_path / name)
        path(name).write_bytes(kept)


def rows_of(folder: Path) -> list[pa.Table]:
    dataset = Dataset(str(folder))
    by = [("user_id", "ascending"), ("as_of", "ascending"), ("first_target", "ascending")]
    rows = [dataset.rows(split).sort_by(by) for split in ("train", "valid", "test")]
    return [dataset.catalogue(), dataset.item_stats(), dataset.histories().sort_by("user_id"), *rows]


def test_however_the_logs_are_cut_the_rows_are_the_same(
    undisturbed: tuple[ColumnsSource, dict[str, Any], list[str]], tmp_path: Path
) -> None:
    source, manifest, _ = undisturbed
    whole = made(source, tmp_path / "whole", buckets=1)
    mixed = made(logs_in_parts(tmp_path / "logs", (2, 0, 3, 1), groups=7), tmp_path / "mixed", buckets=3)
    assert manifest["counts"] == whole["counts"] == mixed["counts"]
    assert manifest["files"] == mixed["files"]
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "mixed")


def test_the_same_dataset_is_not_made_twice_and_another_not_over_it(
    undisturbed: tuple[ColumnsSource, dict[str, Any], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = undisturbed[0]
    monkeypatch.setenv(KEY, "k" * 32)
    secret = PrivacyConfig(key_env=KEY, redact=False)
    manifest = made(source, tmp_path, privacy=secret)
    (tmp_path / "_work").mkdir()
    again = Killer()
    assert made(source, tmp_path, again, privacy=secret) == manifest
    assert again.titles == []
    assert not (tmp_path / "_work").exists()
    with pytest.raises(ValueError, match=r"made with history_length = 50; this config says 7: .*another run folder"):
        made(source, tmp_path, privacy=secret, history_length=7)
    monkeypatch.setenv(KEY, "q" * 32)
    with pytest.raises(ValueError, match="made with another key"):
        made(source, tmp_path, privacy=secret)


def test_other_logs_are_not_taken_for_those_of_a_published_dataset(tmp_path: Path) -> None:
    source = logs_in_parts(tmp_path / "logs")
    manifest = made(source, tmp_path / "dataset")
    more = tmp_path / "logs" / "interactions-9.parquet"
    parquet.write_table(LOGS.interactions.slice(0, 50), more)
    with pytest.raises(ValueError, match=r"made of other logs: .*another run folder, with data.previous"):
        made(source, tmp_path / "dataset")
    more.unlink()
    os.utime(tmp_path / "logs" / "interactions-0.parquet", (0, 0))
    assert made(source, tmp_path / "dataset") == manifest


def backwards(function: Callable[[Task], Result], tasks: Sequence[Task], title: str) -> Iterator[Result]:
    return map(function, reversed(tasks))


def test_what_the_later_file_says_of_an_item_counts_in_whatever_order_tasks_are_run(tmp_path: Path) -> None:
    source = logs_in_parts(tmp_path / "logs")
    (tmp_path / "logs" / "items.parquet").unlink()
    for number, title in enumerate(("first", "second", "third")):
        items = LOGS.items.set_column(1, "title", pa.array([title] * 30)).slice(5 * number, 20)
        parquet.write_table(items, tmp_path / "logs" / f"items-{number}.parquet")
    source = source.model_copy(update={"items": f"{tmp_path}/logs/items-*.parquet"})
    manifest = made(source, tmp_path / "forwards")
    assert made(source, tmp_path / "backwards", backwards) == manifest
    catalogue = Dataset(str(tmp_path / "forwards")).catalogue()
    titles = dict(zip(catalogue["item_id"].to_pylist(), catalogue["title"].to_pylist(), strict=True))
    wanted = [titles[item] for item in LOGS.items["item_id"].to_pylist()]
    assert wanted == ["first"] * 5 + ["second"] * 5 + ["third"] * 20


def test_hopeless_logs_stop_early(tmp_path: Path) -> None:
    source = logs_in_parts(tmp_path / "logs")
    rows = LOGS.interactions.take(pa.array([0] * 1000))
    unlisted = rows.set_column(1, "item_id", pa.array(["never listed"] * 1000))
    for part in range(30):
        parquet.write_table(unlisted, tmp_path / "logs" / f"interactions-{10 + part}.parquet")
    run = Killer()
    with pytest.raises(ValueError, match=r"10000 of 10\d\d\d interactions .*not among the items: 10000"):
        made(source, tmp_path / "dataset", run)
    assert run.titles.count("interactions") < 20
