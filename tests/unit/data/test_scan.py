"""What counts as naming a user: long names in any text, short ones where users stand, an item of the same id never."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from rayrec.data.scan import Who, scan
from rayrec.data.work import in_process

HIDDEN = "0123456789abcdef" * 2
SHORT, LONG = "7", "user-00003"
COLUMNS: list[tuple[str, list[Any], dict[str, int]]] = [
    ("user_id", [SHORT, "77", LONG, HIDDEN, None], {SHORT: 2, LONG: 2}),
    ("head", [f"user:{SHORT}", "user:77", f"user:{LONG}", f"user:{HIDDEN}", "item:7"], {SHORT: 2, LONG: 2}),
    ("item_id", [SHORT, LONG, HIDDEN], {SHORT: 1, LONG: 1}),
    ("text", ["7 and 7", "7", f"of {LONG}.", f"of {LONG}1", f"of x{LONG}", f"({HIDDEN})"], {SHORT: 1, LONG: 2}),
    ("record", ['{"user_id": "7", "rating": 7}', '{"user_id": "77", "item_id": "7"}'], {SHORT: 1, LONG: 0}),
    ("record", ['{"head": "user:7", "tail": "x"}', f'{{"head": "user:{LONG}"}}'], {SHORT: 1, LONG: 1}),
    ("categories", [["x", LONG], ["y"], None, [f"{HIDDEN}"]], {SHORT: 1, LONG: 2}),
    ("number", [7, 77], {SHORT: 0, LONG: 0}),
]


@pytest.mark.parametrize(("name", "values", "expected"), COLUMNS, ids=[name for name, *_ in COLUMNS])
def test_a_user_is_found_where_users_are_named(
    name: str, values: list[Any], expected: dict[str, int], tmp_path: Path
) -> None:
    parquet.write_table(pa.table({name: values}), tmp_path / "x.parquet")
    for raw, count in expected.items():
        found = scan(str(tmp_path), Who(raw, HIDDEN), in_process)
        assert (found["found"], found["files"], found["rows"]) == (count, 1, len(values))


def test_an_id_that_is_not_hidden_is_looked_for_like_any_other(tmp_path: Path) -> None:
    table = pa.table({"user_id": ["7", "77", None], "item_id": ["7", "7", "7"], "text": ["7 and 7", "7", None]})
    parquet.write_table(table, tmp_path / "x.parquet")
    (tmp_path / "_work").mkdir()
    (tmp_path / "_work" / "y.txt").write_text(LONG)
    (tmp_path / "z.txt").write_text("7")
    assert scan(str(tmp_path), Who("7", "7"), in_process)["where"] == {"x.parquet": 1}
    (tmp_path / "z.txt").write_text(f"x={LONG}")
    assert scan(str(tmp_path), Who(LONG, LONG), in_process)["where"] == {"z.txt": 1}


def test_what_is_searched_for_is_not_shown() -> None:
    assert repr(Who(LONG, HIDDEN)) == "Who()"
