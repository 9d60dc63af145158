import pytest

from rayrec.serve.security import is_loopback, required_token


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_addresses(host: str):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org", "127.0.0.1.example.org", ""])
def test_everything_else_can_be_reached_by_others(host: str):
    assert not is_loopback(host)


def test_loopback_needs_no_token(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TOKEN_HERE", raising=False)
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY", raising=False)
    assert required_token("localhost", "TOKEN_HERE") is None


def test_a_token_that_is_set_is_required_on_loopback_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TOKEN_HERE", " secret\n")
    assert required_token("127.0.0.1", "TOKEN_HERE") == "secret"


@pytest.mark.parametrize("value", ["", "  "])
def test_an_open_host_without_a_token_is_refused(monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv("TOKEN_HERE", value)
    with pytest.raises(ValueError, match=r"0\.0\.0\.0 is open to other machines and TOKEN_HERE is not set; set TOKEN"):
        required_token("0.0.0.0", "TOKEN_HERE")


def test_haproxy_listens_everywhere_and_so_needs_a_token(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TOKEN_HERE", raising=False)
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    with pytest.raises(ValueError, match="TOKEN_HERE is not set"):
        required_token("127.0.0.1", "TOKEN_HERE")
