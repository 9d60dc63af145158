"""What else may hold a forgotten user: older versions of the dataset, and what was trained on any of them."""

from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from rayrec.data.forget import datasets_before, trained_on
from rayrec.storage import publish


def test_a_dataset_and_those_it_goes_on_from(tmp_path: Path) -> None:
    uris = [f"{tmp_path}/{number}" for number in range(4)]
    for uri, previous in zip(uris[1:], uris, strict=False):
        publish(uri, "dataset", {}, data={"previous": previous})
    assert datasets_before(uris[3]) == [uris[3], uris[2], uris[1]]  # the oldest is gone
    publish(uris[0], "dataset", {}, data={"previous": None})
    assert datasets_before(uris[3]) == uris[::-1]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Runs of which some were trained on the dataset `/old`, whose fingerprint is 77; beside them one of its own."""
    publish(f"{tmp_path}/runs/a/bundle", "bundle", {}, dataset="77")
    publish(f"{tmp_path}/runs/a/weights", "training", {}, dataset="/old")
    publish(f"{tmp_path}/runs/a/report", "report", {}, dataset="77")
    publish(f"{tmp_path}/runs/b/bundle", "bundle", {}, dataset="88")
    publish(f"{tmp_path}/runs/b/weights", "training", {}, dataset="/new")
    publish(f"{tmp_path}/runs/c/bundle", "bundle", {})
    publish(f"{tmp_path}/own/bundle", "bundle", {}, dataset="77")
    (tmp_path / "runs" / "notes.txt").write_text("no run")
    return tmp_path / "runs"


def test_what_was_trained_on_the_user_is_listed_and_nothing_walked_through(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalFileSystem, "find", None)
    assert trained_on(f"{runs.parent}/own", str(runs), ["/old"], ["77"]) == {
        "weights": [f"{runs}/a/weights"],
        "bundles": [f"{runs.parent}/own/bundle", f"{runs}/a/bundle"],
        "bundles_that_do_not_say": [f"{runs}/c/bundle"],
    }
    none = trained_on(f"{runs}/b", f"{runs}/nowhere", ["/old"], ["77"])
    assert not any(none.values())
