"""What a new version refuses to go on from, and a job that goes on only from the dataset that it began with."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rayrec.data.config import CleanConfig, PrivacyConfig, SplitConfig
from rayrec.data.dataset import Dataset
from rayrec.data.items import gather_items, retell_items
from rayrec.data.previous import published
from rayrec.data.split import item_order
from rayrec.data.work import Work, slices_bytes
from rayrec.schema import ITEMS
from tests.contract.test_prepare import KilledError, Killer
from tests.synthetic import START_S
from tests.versions import FIRST_NEW_S, LOGS, half, made

OLD, NEW = half(LOGS, START_S, FIRST_NEW_S), half(LOGS, FIRST_NEW_S)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A first version."""
    return made(OLD, tmp_path_factory.mktemp("refusals") / "first")


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"history_length": 9}, r"data.history_length is 9, and the previous dataset at .* was made with 8; expected the"),
    ({"split": SplitConfig(held_out_users=0.1)}, r"data.split.held_out_users is 0.1, .* made with 0"),
    ({"clean": CleanConfig(max_events=7)}, r"data.clean.max_events is 7, .* made with 10000"),
    ({"seed": 3}, r"seed is 3, and the previous dataset .* was made with 0"),
    ({"privacy": PrivacyConfig(user_ids="plain")}, r"data.privacy.redact is True, .* made with False"),
    (
        {"split": SplitConfig(kind="leave_last_out")},
        r"data.split.kind is 'leave_last_out' and data.previous is set; .*",
    ),
    ({"split": SplitConfig(few_shot_users=3)}, r"data.split.few_shot_users is 3 .* without data.previous"),
    ({"clean": CleanConfig(min_item_events=2)}, r"data.clean.min_item_events is 2 .* needs 1"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSALS, ids=lambda value: "" if isinstance(value, str) else "x")
def test_another_config_is_refused(settings: dict[str, Any], message: str, first: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        made(NEW, tmp_path / "second", previous=first.uri, **settings)


def test_another_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    privacy = PrivacyConfig(key_env="RAYREC_TEST_KEY", redact=False)
    monkeypatch.setenv("RAYREC_TEST_KEY", "k" * 32)
    first = made(OLD, tmp_path / "first", privacy=privacy)
    monkeypatch.setenv("RAYREC_TEST_KEY", "q" * 32)
    with pytest.raises(ValueError, match=r"made with another key \(fingerprint .* put that key into RAYREC_TEST_KEY"):
        made(NEW, tmp_path / "second", previous=first.uri, privacy=privacy)


def test_too_few_new_hours_and_an_altered_file_are_refused(first: Dataset, tmp_path: Path) -> None:
    logs = half(LOGS, START_S, FIRST_NEW_S + 3600)
    with pytest.raises(ValueError, match=r"lie in \d distinct hour\(s\); a temporal split needs at least 3"):
        made(logs, tmp_path / "early", previous=first.uri)
    torn = made(OLD, tmp_path / "torn")
    path = tmp_path / "torn" / torn.files("rows/train")[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"rows/train/part-00000.parquet is not the file that the manifest lists"):
        made(NEW, tmp_path / "second", previous=torn.uri)
    with pytest.raises(ValueError, match="nothing is published at"):
        made(logs, tmp_path / "third", previous=str(tmp_path / "nowhere"))


def test_a_killed_job_goes_on_only_from_the_dataset_it_began_with(tmp_path: Path) -> None:
    place = tmp_path / "first"
    made(OLD, place)
    with pytest.raises(KilledError):
        made(NEW, tmp_path / "second", Killer(12), previous=str(place))
    shutil.rmtree(place)
    made(half(LOGS, START_S + 10 * 86_400, FIRST_NEW_S), place)
    files = made(NEW, tmp_path / "second", previous=str(place)).manifest["files"]
    assert files == made(NEW, tmp_path / "undisturbed", previous=str(place)).manifest["files"]


def test_a_new_item_with_the_hash_of_an_old_one_is_refused(first: Dataset, tmp_path: Path) -> None:
    old = first.catalogue()["item_id"][7].as_py()
    item = pa.Table.from_pylist([{"item_id": "new", "title": "x"}], ITEMS)
    work = Work(str(tmp_path), "_work/x")
    work.write("0.slices", slices_bytes([item.append_column("hash", pa.array(item_order(pa.array([old]), 0)))]))
    (told,) = gather_items(work, ["0.slices"], 0)["files"]
    with pytest.raises(ValueError, match=f"'{old}' and 'new' have the same 64-bit hash"):
        retell_items(work, published(first.uri), 0, [told], 0)
