"""One contract for every source: known rows with true row numbers, whatever the blocks, and nothing that raises."""

import pickle
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rayrec import schema
from rayrec.data import files
from rayrec.data.config import DataConfig
from rayrec.data.files import JsonLines, Parquet, parts_of, read_blocks
from rayrec.data.job import prepare
from rayrec.data.sources.config import ColumnsSource, MindSource, Source
from rayrec.data.sources.listing import SOURCES, URI_FIELDS, named_uris, read_logs
from rayrec.data.sources.logs import Logs, LogTable
from rayrec.data.work import in_process
from tests.sources import amazon, columns, dkn, lastfm, mind, movielens, rated_ads, recbole, tallrec
from tests.sources.cases import NAN, Case, Rows
from tests.synthetic import PLAIN

TABLES = {
    "interactions": schema.RAW_INTERACTIONS,
    "items": schema.RAW_ITEMS,
    "users": schema.RAW_USERS,
    "impressions": schema.RAW_IMPRESSIONS,
    "triples": schema.TRIPLES,
}
MOVIELENS = list(movielens.CASES)
EVERY = movielens.CASES | columns.CASES | recbole.CASES | mind.CASES | amazon.CASES | tallrec.CASES
EVERY |= lastfm.CASES | dkn.CASES | rated_ads.CASES


def with_row(name: str) -> pa.Schema:
    return TABLES[name].append(pa.field("row", pa.int64()))


def logs_of(case: Case, folder: Path) -> Logs:
    config = case.write(folder)
    logs: Logs = SOURCES[config.kind](config)
    return logs


def raw_blocks(table: LogTable, block_bytes: int = 1 << 20) -> Iterator[pa.Table]:
    for part in parts_of(table.uris, table.format, 1 << 20):
        for block in read_blocks(part, block_bytes):
            assert not len(block.refused)
            yield block.rows


def read(logs: Logs, name: str, block_bytes: int = 1 << 20) -> pa.Table:
    tables = [table.convert(block) for table in getattr(logs, name) for block in raw_blocks(table, block_bytes)]
    return pa.concat_tables([with_row(name).empty_table(), *tables])


def told(table: pa.Table) -> Rows:
    """Rows without their nulls, a NaN as text."""
    return [
        {name: NAN if value != value else value for name, value in row.items() if value is not None}
        for row in table.to_pylist()
    ]


@pytest.fixture(params=EVERY)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = EVERY[request.param]
    return found


def test_every_source_has_a_case(tmp_path: Path) -> None:
    kinds = set()
    for name, case in EVERY.items():
        (tmp_path / name).mkdir()
        kinds.add(case.write(tmp_path / name).kind)
    assert kinds == set(SOURCES) == {config.model_fields["kind"].annotation.__args__[0] for config in Source.__args__}


def test_rows_are_known_and_bad_values_null(case: Case, tmp_path: Path) -> None:
    logs = logs_of(case, tmp_path)
    found = {name: read(logs, name) for name in TABLES if getattr(logs, name)}
    assert {name: told(table) for name, table in found.items()} == case.tables
    for name, table in found.items():
        assert table.schema.equals(with_row(name))
    assert logs.order_only == case.order_only


def test_blocks_change_nothing(case: Case, tmp_path: Path) -> None:
    logs = logs_of(case, tmp_path)
    for name in case.tables:
        whole = read(logs, name)
        assert told(read(logs, name, 1)) == told(whole)
        for table in getattr(logs, name):
            blocks = list(raw_blocks(table))
            rows = [table.convert(block.slice(row, 1)) for block in blocks for row in range(len(block))]
            assert told(pa.concat_tables(rows)) == told(pa.concat_tables(table.convert(block) for block in blocks))
            assert table.convert(blocks[0].slice(0, 0)).equals(with_row(name).empty_table())


def garbage(form: object, rows: int) -> list[pa.Array]:
    """Columns of senseless values, of the types that a format can give."""
    found = [
        pa.nulls(rows, pa.string()),
        *(pa.array([text] * rows) for text in (" ", "\N{SNOWMAN} -1 [x", "1e999", "-5")),
    ]
    if isinstance(form, JsonLines | Parquet):
        values: list[Any] = [True, -1.5, 2**60, float("nan"), [], [None], [["a"]], [1.5], {"a": 1}, {"a": ["b"]}]
        found += [pa.array([value] * rows) for value in values] + [pa.nulls(rows)]
    if isinstance(form, Parquet):
        typed = [(b"\xff", pa.binary()), (7, pa.timestamp("us")), (7, pa.date32()), ("x", pa.large_string())]
        typed += [(7, pa.duration("s")), (7, pa.time64("us")), (Decimal("7.25"), pa.decimal128(9, 2)), (7, pa.uint64())]
        found += [pa.array([value] * rows, kind) for value, kind in typed]
        found.append(pa.array(["x"] * rows).dictionary_encode())
    return found


def test_garbage_in_any_column_raises_nothing(case: Case, tmp_path: Path) -> None:
    logs = logs_of(case, tmp_path)
    for name in case.tables:
        for table in getattr(logs, name):
            block = next(raw_blocks(table))
            for column in set(block.column_names) - {"row"}:
                for values in garbage(table.format, len(block)):
                    found = table.convert(block.set_column(block.column_names.index(column), column, values))
                    assert found.schema.equals(with_row(name))
                    assert set(found["row"].to_pylist()) <= set(block["row"].to_pylist())
                    found.validate(full=True)


def test_converts_can_be_sent_to_workers(case: Case, tmp_path: Path) -> None:
    logs = logs_of(case, tmp_path)
    sent: Logs = pickle.loads(pickle.dumps(logs))
    for name in case.tables:
        assert told(read(sent, name)) == told(read(logs, name))


def test_every_file_that_is_read_is_among_the_tables(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, opened = set(), files.opened

    def noted(uri: str, *more: Any, **named: Any) -> Any:
        seen.add(uri)
        return opened(uri, *more, **named)

    monkeypatch.setattr(files, "opened", noted)
    logs = logs_of(case, tmp_path)
    for name in case.tables:
        read(logs, name)
    tables = [table for name in TABLES for table in getattr(logs, name)]
    assert seen == {part.uri for table in tables for part in parts_of(table.uris, table.format, 1 << 20)}


def test_no_file_is_looked_at_before_its_scheme_is_allowed(case: Case, tmp_path: Path) -> None:
    config = case.write(tmp_path)
    assert read_logs(config, ("file",)).order_only == case.order_only
    named = [field for field in URI_FIELDS if getattr(config, field, None)]
    assert named
    for field in named:
        value = getattr(config, field)
        elsewhere = "memory://not-there" if isinstance(value, str) else (*value[:-1], "memory://not-there")
        moved = config.model_copy(update={field: elsewhere})
        with pytest.raises(
            ValueError, match=r"'memory://not-there' has the scheme 'memory'; data\.allowed_schemes has file"
        ):
            read_logs(moved, ("file",))
    with pytest.raises(ValueError, match=r"has the scheme 'file'; data\.allowed_schemes has s3, memory"):
        read_logs(config, ("s3", "memory"))


def test_every_field_that_may_hold_a_uri_is_known() -> None:
    fields = {name for config in Source.__args__ for name in config.model_fields}
    assert fields - set(URI_FIELDS) == {"kind", "name", "columns", "time_unit", "category_separator"}
    assert set(URI_FIELDS) <= fields
    assert list(named_uris(MindSource(kind="mind", uris=("a", "b")))) == ["a", "b"]
    assert list(named_uris(ColumnsSource(kind="columns", interactions="a", items="b"))) == ["a", "b"]


@pytest.mark.parametrize("layout", MOVIELENS[1:])
def test_movielens_is_the_same_in_every_layout(layout: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    first, second = logs_of(EVERY[MOVIELENS[0]], here), logs_of(EVERY[layout], there)
    for name in ("interactions", "items"):
        assert told(read(first, name)) == told(read(second, name))


def test_a_column_that_the_layout_needs_is_missed_by_name(tmp_path: Path) -> None:
    source = movielens.movielens_recbole(tmp_path)
    path = tmp_path / "ml-100k.inter"
    path.write_text(path.read_text().replace("user_id:token", "user:token", 1))
    config = DataConfig(source=source, privacy=PLAIN)
    with pytest.raises(ValueError, match=r'ml-100k.inter: .*"user_id".* of 4 columns: is its first line a header, '):
        prepare(config, str(tmp_path / "dataset"), seed=0, provenance={}, run=in_process)


def test_a_table_of_topics_without_a_line_is_missed(tmp_path: Path) -> None:
    (case,) = rated_ads.CASES.values()
    source = case.write(tmp_path)
    (tmp_path / "content_labels.csv").write_text("")
    with pytest.raises(ValueError, match=r"content_labels\.csv is empty; expected its header"):
        SOURCES["rated_ads"](source)
