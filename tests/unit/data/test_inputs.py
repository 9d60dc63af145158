import shutil
from pathlib import Path

import pytest

from rayrec.data.config import DataConfig
from rayrec.data.inputs import common_folder, list_inputs
from rayrec.data.sources.columns import read_columns
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
    before = inputs.described()
    shutil.copy(tmp_path / "logs" / "users.parquet", tmp_path / "logs" / "items.parquet")
    assert list_inputs(read_columns(write(LOGS, tmp_path / "logs")), DataConfig(source=source)).described() != before


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
