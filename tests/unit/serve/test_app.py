"""What deploy() refuses before it touches Ray."""

import socket
from pathlib import Path

import pytest

from rayrec import privacy, storage
from rayrec.privacy import Privacy
from rayrec.serve.app import deploy
from rayrec.serve.config import ServeConfig


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    return storage.publish(str(tmp_path), "bundle", {}, privacy=Privacy(None, False, ()).about())


def test_deploy_needs_a_bundle(tmp_path: Path):
    with pytest.raises(ValueError, match=r"nothing is published at .* expected bundle"):
        deploy(str(tmp_path), ServeConfig())
    storage.publish(str(tmp_path), "dataset", {})
    with pytest.raises(ValueError, match="holds a dataset; expected a bundle"):
        deploy(str(tmp_path), ServeConfig())


def test_deploy_refuses_an_open_port_without_a_token(bundle: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAYREC_TOKEN", raising=False)
    with pytest.raises(ValueError, match="set RAYREC_TOKEN"):
        deploy(bundle, ServeConfig(host="0.0.0.0"))


def test_deploy_refuses_a_port_in_use(bundle: str):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ValueError, match=rf"cannot listen on 127\.0\.0\.1:{port} .*serve\.port to a free port"):
            deploy(bundle, ServeConfig(port=port))


def test_deploy_needs_what_redacts_requests_as_the_logs_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    uri = storage.publish(str(tmp_path), "bundle", {}, privacy=Privacy(None, True, ("US",)).about())
    privacy._require_libraries.cache_clear()
    monkeypatch.setattr(privacy, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'rayrec\[privacy\]'"):
        deploy(uri, ServeConfig())
