"""Calls to a running endpoint, as `rayrec recommend` makes them."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

TIMEOUT_S = 60.0
"""A request; generous, for the first ones of a busy endpoint wait in a queue."""


def recommend(
    url: str,
    *,
    history: Sequence[str | Mapping[str, Any]] = (),
    profile: str = "",
    k: int = 10,
    exclude: Sequence[str] = (),
    as_of: int | None = None,
    token: str | None = None,
) -> dict[str, Any]:
    """The best items for a user.

    Args:
        url: base URL of the endpoint.
        history: item ids in time order, or events (item_id; timestamp, rating, event where known).
        profile: a sentence about the user.
        k: items wanted.
        exclude: item ids not wanted.
        as_of: ms; the moment of the request.
        token: bearer token, where the endpoint needs one.

    Returns:
        `items` (item_id, title, score, like_probability; best first), `unknown_items`, `model`.

    Raises:
        ValueError: the server refused the request, or none answers at the URL.
    """
    body = {"history": _events(history), "profile": profile, "k": k, "exclude": list(exclude), "as_of": as_of}
    return _post(url, "/v1/recommend", body, token)


def rank(
    url: str,
    *,
    candidates: Sequence[Mapping[str, Any]],
    history: Sequence[str | Mapping[str, Any]] = (),
    profile: str = "",
    as_of: int | None = None,
    token: str | None = None,
) -> dict[str, Any]:
    """The candidates in the user's order.

    Args:
        url: base URL of the endpoint.
        candidates: each an item_id, or a title with text, categories and attributes where known.
        history: item ids in time order, or events.
        profile: a sentence about the user.
        as_of: ms; the moment of the request.
        token: bearer token, where the endpoint needs one.

    Returns:
        `items` (candidate: position in the request, item_id, title, score, like_probability; best first),
        `unknown_items`, `model`.

    Raises:
        ValueError: the server refused the request, or none answers at the URL.
    """
    user = {"history": _events(history), "profile": profile}
    body = {"user": user, "candidates": [dict(candidate) for candidate in candidates], "as_of": as_of}
    return _post(url, "/v1/rank", body, token)


def wait_ready(url: str, timeout: float) -> dict[str, Any]:
    """Waits until the endpoint has a model that answers, and returns which.

    Args:
        url: base URL of the endpoint.
        timeout: seconds.

    Raises:
        ValueError: it was not ready in time; tells what it last said.
    """
    end = time.monotonic() + timeout
    while True:
        try:
            answer = httpx.get(f"{url.rstrip('/')}/readyz", timeout=5.0, trust_env=_trust_env(url))
            said = f"{answer.status_code} {answer.text[:200]}"
            if answer.status_code == 200:
                return dict(answer.json())
        except httpx.HTTPError as error:
            said = repr(error)
        if time.monotonic() > end:
            raise ValueError(f"{url} was not ready after {timeout:g} s; its last answer: {said}")
        time.sleep(0.2)


def _trust_env(url: str) -> bool:
    """Whether the proxy of the environment applies: it cannot reach this machine's loopback."""
    return httpx.URL(url).host not in ("127.0.0.1", "localhost", "::1")


def _events(history: Sequence[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"item_id": event} if isinstance(event, str) else dict(event) for event in history]


def _post(url: str, path: str, body: Mapping[str, Any], token: str | None) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = httpx.post(
            f"{url.rstrip('/')}{path}", json=body, headers=headers, timeout=TIMEOUT_S, trust_env=_trust_env(url)
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ValueError(f"no answer from {url} ({error}); start the endpoint with `rayrec serve`") from None
    if answer.status_code != 200:
        raise ValueError(f"{url}{path} answered {answer.status_code}: {_message(answer)}")
    return dict(answer.json())


def _message(answer: httpx.Response) -> str:
    """The server's own words: `field: message` for each problem of a refused request."""
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return answer.text.strip()[:500]
    if isinstance(detail, str):
        return detail
    return "; ".join(f"{'.'.join(str(part) for part in problem['loc'][1:])}: {problem['msg']}" for problem in detail)
