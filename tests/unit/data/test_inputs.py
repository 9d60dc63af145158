import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rayrec.data.config import DataConfig
from rayrec.data.inputs import Inputs, common_folder, list_inputs
from rayrec.data.sources.columns import read_columns
from rayrec.data.sources.config import Columns, ColumnsSource
from tests.synthetic import generate, write

LOGS = generate(num_users=20, num_items=20, num_interactions=200)


def test_files_are_named_below_what_the_config_names(tmp_path: Path) -> None:
    source = write(LOGS, tmp_path / "logs")
    for folder in ("a", "b"):
        (tmp_path / "logs" / folder).mkdir()
        shutil.copy(tmp_path / "logs" / "interactions.parquet", tmp_path / "logs" / folder / "part.parquet")
    source = source.model_copy(update={"interactions": str(tmp_path / "logs" / "?" / "*.parquet")})
    inputs = list_inputs(read_columns(source), DataConfig(source=source))
    assert [(task.number, task.source) for task in inputs.parts["interactions"]] == [
        (0, "a/part.parquet"),
        (1, "b/part.parquet"),
    ]
    assert [task.source for task in inputs.parts["items"] + inputs.parts["users"]] == ["items.parquet", "users.parquet"]
    assert inputs.parts["triples"] == []


def inputs_of(folder: Path) -> Inputs:
    found = {name: str(folder / f"{name}.parquet") for name in ("interactions", "items", "users")}
    source = ColumnsSource(kind="columns", **found, columns=Columns(user_text="about"))
    return list_inputs(read_columns(source), DataConfig(source=source))


def test_logs_are_told_apart_by_version_and_copies_by_size_and_name(tmp_path: Path) -> None:
    write(LOGS, tmp_path / "logs")
    before = inputs_of(tmp_path / "logs")
    assert inputs_of(tmp_path / "logs").described() == before.described()
    os.utime(tmp_path / "logs" / "items.parquet", (0, 1_700_000_000))
    touched = inputs_of(tmp_path / "logs")
    assert touched.described() != before.described()
    assert touched.digest() == before.digest()
    shutil.copytree(tmp_path / "logs", tmp_path / "copy")
    assert inputs_of(tmp_path / "copy").digest() == before.digest()
    write(replace(LOGS, items=LOGS.items.slice(1)), tmp_path / "copy")
    assert inputs_of(tmp_path / "copy").digest() != before.digest()


@pytest.mark.parametrize(
    ("uris", "folder"),
    [
        (["/data/logs/a.csv"], "/data/logs/"),
        (["/data/logs/*.csv", "/data/items.csv"], "/data/"),
        (["s3://bucket/day=*/x.parquet", "s3://bucket/items"], "s3://bucket/"),
        (["/data/log", "/data/logs/x"], "/data/"),
        (["s3://bucket/a/x", "/data/x"], ""),
        ([], ""),
    ],
)
def test_the_common_folder_ends_before_any_glob(uris: list[str], folder: str) -> None:
    assert common_folder(uris) == folder


def test_the_schemes_of_the_config_count(tmp_path: Path) -> None:
    source = write(LOGS, tmp_path)
    with pytest.raises(ValueError, match=r"interactions.parquet.*scheme 'file'"):
        list_inputs(read_columns(source), DataConfig(source=source, allowed_schemes=("s3",)))
