"""rayrec.storage: nothing is published before it is whole, and nothing altered is read."""

import os
import sys
import uuid
from pathlib import Path

import pytest

from rayrec import storage


@pytest.fixture(params=["local", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "made") if request.param == "local" else f"memory://{uuid.uuid4().hex}/made"


def publish(uri: str) -> None:
    files = {name: storage.write_bytes(storage.join(uri, name), name.encode()) for name in ("a.txt", "deep/b.txt")}
    storage.publish(uri, "dataset", files, counts={"rows": 2})


def test_a_directory_is_an_artifact_once_its_manifest_is_there(uri: str) -> None:
    entry = storage.write_bytes(storage.join(uri, "a.txt"), b"1")
    assert not storage.is_published(uri)
    with pytest.raises(ValueError, match=r"nothing is published at .*expected dataset: run the stage"):
        storage.manifest(uri, "dataset")
    assert storage.publish(uri, "dataset", {"a.txt": entry}, seed=1) == storage.absolute(uri)
    assert storage.manifest(uri, "dataset")["seed"] == 1
    with pytest.raises(ValueError, match="holds a dataset; expected a bundle"):
        storage.manifest(uri, "bundle")


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"{tmp_path}/made"
    storage.publish(uri, "dataset", {}, seed=1)

    class TornError(Exception):
        """Instead of SIGKILL while a file is written."""

    def torn(*_: object) -> None:
        raise TornError

    monkeypatch.setattr(os, "replace", torn)
    for place in (uri, f"{uri}/new"):
        with pytest.raises(TornError):
            storage.publish(place, "dataset", {}, seed=2)
    assert storage.manifest(uri, "dataset")["seed"] == 1
    assert not storage.is_published(f"{uri}/new")


def test_verify_names_what_was_altered_or_lost(uri: str) -> None:
    publish(uri)
    assert set(storage.verify(uri)["files"]) == {"a.txt", "deep/b.txt"}
    storage.write_bytes(storage.join(uri, "deep/b.txt"), b"other")
    with pytest.raises(ValueError, match=r"deep/b\.txt has sha256 .*altered or torn"):
        storage.verify(uri)
    filesystem, path = storage.located(uri)
    filesystem.rm(f"{path}/a.txt")
    with pytest.raises(ValueError, match=r"a\.txt is missing though the manifest lists it"):
        storage.verify(uri)


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "deep/../../x"])
def test_a_manifest_that_lists_a_file_outside_is_refused(uri: str, name: str, tmp_path: Path) -> None:
    storage.publish(uri, "weights", {name: {"size": 1, "sha256": "0"}})
    with pytest.raises(ValueError, match="outside of it"):
        storage.download_directory(uri, str(tmp_path / "copy"))


def test_download_gives_a_local_copy(uri: str, tmp_path: Path) -> None:
    publish(uri)
    local = Path(storage.download_directory(uri, str(tmp_path / "copy")))
    assert (local / "deep/b.txt").read_bytes() == b"deep/b.txt"
    assert storage.verify(str(local)) == storage.manifest(uri)
    assert (str(local) == uri) == (not uri.startswith("memory"))


def test_upload_lists_every_file(tmp_path: Path, uri: str) -> None:
    (tmp_path / "from/deep").mkdir(parents=True)
    (tmp_path / "from/a.txt").write_bytes(b"a")
    (tmp_path / "from/deep/b.txt").write_bytes(b"b")
    files = storage.upload_directory(str(tmp_path / "from"), uri)
    storage.publish(uri, "weights", files)
    assert set(storage.verify(uri)["files"]) == {"a.txt", "deep/b.txt"}


def test_json_is_the_same_bytes_whatever_the_order(uri: str) -> None:
    first = storage.write_json(storage.join(uri, "a.json"), {"b": 1, "a": 2})
    assert first == storage.write_json(storage.join(uri, "b.json"), {"a": 2, "b": 1})
    assert storage.read_json(storage.join(uri, "a.json")) == {"a": 2, "b": 1}


def test_uris_are_absolute_and_of_known_schemes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("runs/a") == str(tmp_path / "runs/a")
    assert storage.absolute("file:///x/y") == "/x/y"
    assert storage.absolute("s3://bucket/x") == "s3://bucket/x"
    assert Path(storage.absolute("package://rayrec/schema.py")).is_file()
    with pytest.raises(ValueError, match="scheme 'http'; expected one of file, s3"):
        storage.absolute("http://example.org/x")
    with pytest.raises(ValueError, match="'no_such_package', which is not installed"):
        storage.absolute("package://no_such_package/x")


def test_a_missing_filesystem_package_names_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ValueError, match=r"pip install 'rayrec\[s3\]'"):
        storage.exists("s3://bucket/x")


def test_provenance_tells_config_code_packages_and_seed() -> None:
    made = storage.provenance({"seed": 5, "run": "x"})
    assert made["config"] == {"seed": 5, "run": "x"}
    assert made["seed"] == 5
    assert set(made["packages"]) == set(storage.RECORDED_PACKAGES)
    assert made["packages"]["ray"].count(".") == 2
