"""A real bundle behind Ray Serve on loopback, over HTTP. The bundle comes from conftest.py's `bundle_uri`."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from ray import serve

from rayrec.export.bundle import load_bundle
from rayrec.schema import batch_of_rows
from rayrec.serve import client
from rayrec.serve.app import APPLICATION, deploy, serve_forever, stop
from rayrec.serve.config import ServeConfig
from tests.e2e.conftest import Exported
from tests.serving import users_at

SPACE, COOKING = "stories about astronauts and space travel", "recipes and cooking"
TOKEN = "a token for these tests"
TOKEN_ENV = "RAYREC_TEST_TOKEN"
CONFIG = ServeConfig(
    port=0,
    token_env=TOKEN_ENV,
    max_k=20,
    target_ongoing_requests=2,
    upscale_delay_s=1,
    downscale_delay_s=300,
)


@pytest.fixture(scope="module")
def url(ray_cluster: Any, bundle_uri: str) -> Iterator[str]:
    os.environ[TOKEN_ENV] = TOKEN
    yield deploy(bundle_uri, CONFIG)
    del os.environ[TOKEN_ENV]
    stop()


@pytest.fixture(scope="module")
def some_items(url: str) -> list[str]:
    answer = client.recommend(url, profile=SPACE, k=6, token=TOKEN)
    return [item["item_id"] for item in answer["items"]]


def check_order(items: list[dict[str, Any]]) -> None:
    scores = [item["score"] for item in items]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < item["like_probability"] < 1 for item in items)


def test_a_sentence_is_enough(url: str, exported: Exported):
    topics = dict(zip(exported.logs.items["item_id"].to_pylist(), exported.logs.item_topics, strict=True))
    found = {}
    for sentence in (SPACE, COOKING):
        items = client.recommend(url, profile=sentence, k=10, token=TOKEN)["items"]
        assert len({item["item_id"] for item in items}) == 10
        assert all(item["title"] for item in items)
        check_order(items)
        found[sentence] = [topics[item["item_id"]] for item in items]
    assert (found[SPACE][0], found[COOKING][0]) == ("space", "cooking")
    assert found[SPACE].count("space") >= found[COOKING].count("space") + 3
    assert found[COOKING].count("cooking") >= found[SPACE].count("cooking") + 3


def test_a_history_is_enough_and_is_not_recommended_again(url: str, some_items: list[str]):
    history = [*some_items[:3], "no such item"]
    answer = client.recommend(url, history=history, exclude=some_items[3:4], k=20, token=TOKEN)
    assert len(answer["items"]) == 20
    assert not {item["item_id"] for item in answer["items"]} & set(some_items[:4])
    assert answer["unknown_items"] == ["no such item"]
    check_order(answer["items"])


def test_timed_events_are_put_in_order(url: str, some_items: list[str]):
    events = [{"item_id": item, "timestamp": 1000 + place, "rating": 5} for place, item in enumerate(some_items)]
    answers = [client.recommend(url, history=history, token=TOKEN) for history in (events, events[::-1])]
    assert answers[0] == answers[1]


def test_rank_encodes_an_unseen_item_on_the_fly(url: str, some_items: list[str]):
    candidates = [
        {"title": "The goalkeeper", "text": "A penalty in the last minute of the cup final."},
        {"title": "Night shift on the orbital station", "text": "Two astronauts repair a telescope above the Earth."},
        {"item_id": "never seen", "title": "Bread every day", "text": "Sourdough, soups and spices."},
    ]
    answer = client.rank(url, history=some_items[:3], profile=SPACE, candidates=candidates, token=TOKEN)
    assert answer["items"][0]["candidate"] == 1
    assert answer["items"][0]["title"] == candidates[1]["title"]
    check_order(answer["items"])


def test_what_is_served_from_raw_events_is_what_evaluation_scores(url: str, exported: Exported):
    rows = exported.data.rows("test").slice(0, 5)
    evaluated = load_bundle(exported.uri).ranker.score(batch_of_rows(rows))
    catalogue = [{"item_id": item_id} for item_id in exported.data.catalogue()["item_id"].to_pylist()]
    for user, scores_N in zip(
        users_at(exported.logs, exported.data, rows["user_id"].to_pylist()), evaluated, strict=True
    ):
        history = [event.model_dump() for event in user.history]
        moment = exported.data.cutoffs.test
        answer = client.rank(
            url, history=history, profile=user.profile, candidates=catalogue, as_of=moment, token=TOKEN
        )
        served = sorted((item["candidate"], item["score"]) for item in answer["items"])
        np.testing.assert_allclose([score for _, score in served], scores_N, rtol=1e-4, atol=1e-5)


def test_rank_gives_the_score_of_recommend(url: str, some_items: list[str]):
    user = {"history": some_items[:2], "profile": "likes music", "token": TOKEN}
    recommended = client.recommend(url, **user)["items"]
    ranked = client.rank(url, candidates=[{"item_id": item["item_id"]} for item in recommended], **user)["items"]
    assert [item["score"] for item in ranked] == pytest.approx([item["score"] for item in recommended], rel=1e-5)


def test_requests_of_one_batch_get_their_own_answers(url: str):
    texts = [SPACE, COOKING, "likes crime", "24-year-old student, plays the guitar"] * 4
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda text: client.recommend(url, profile=text, k=3, token=TOKEN)["items"], texts))
    for text, items in zip(texts[:4], together[:4], strict=True):
        alone = client.recommend(url, profile=text, k=3, token=TOKEN)["items"]
        assert [item["score"] for item in items] == pytest.approx([item["score"] for item in alone], rel=1e-4)


def test_a_bad_request_names_its_field(url: str):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for path, body, field in (
        ("recommend", {"profile": SPACE, "k": 21}, ["k"]),
        ("recommend", {"history": [{"item_id": 3}]}, ["history", 0, "item_id"]),
        ("rank", {"user": {"profile": "x"}, "candidates": [{"item_id": "no such item"}]}, ["candidates", 0, "item_id"]),
    ):
        answer = httpx.post(f"{url}/v1/{path}", json=body, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", *field]


def test_only_the_probes_are_open(url: str):
    assert httpx.get(f"{url}/healthz").json() == {"status": "alive"}
    assert httpx.get(f"{url}/readyz").json()["fingerprint"]
    for path in ("docs", "openapi.json", "nothing-here"):
        assert httpx.get(f"{url}/{path}").status_code == 401
    with pytest.raises(ValueError, match="answered 401: this endpoint needs a bearer token"):
        client.recommend(url, profile=SPACE)
    with pytest.raises(ValueError, match="answered 401: the bearer token is wrong"):
        client.recommend(url, profile=SPACE, token="another")
    assert "swagger" in httpx.get(f"{url}/docs", headers={"Authorization": f"Bearer {TOKEN}"}).text


def test_a_second_deploy_on_the_same_cluster_is_refused(url: str, bundle_uri: str):
    with pytest.raises(ValueError, match="Ray Serve already runs"):
        deploy(bundle_uri, CONFIG)


def replicas(*states: str) -> int:
    """Replicas in any of the states, or in all of them where none is named."""
    found = serve.status().applications[APPLICATION].deployments["bundle"].replica_states
    return sum(count for state, count in found.items() if not states or state in states)


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.5)
    return condition()


def test_load_takes_the_replicas_from_one_to_two(url: str):
    assert replicas() == replicas("RUNNING") == 1
    end, enough = time.monotonic() + 60, threading.Event()

    def ask() -> int:
        answered = 0
        while not enough.is_set() and time.monotonic() < end:
            answered += len(client.recommend(url, profile=SPACE, k=1, token=TOKEN)["items"])
        return answered

    with ThreadPoolExecutor(16) as pool:
        asking = [pool.submit(ask) for _ in range(16)]
        asked_for_another = wait_for(lambda: replicas() == 2, 60)
        enough.set()
        assert all(future.result() > 0 for future in asking)
    assert asked_for_another
    assert wait_for(lambda: replicas("RUNNING") == 2, 60)


def test_sigterm_stops_the_endpoint_and_frees_its_port(url: str, bundle_uri: str, monkeypatch: pytest.MonkeyPatch):
    stop()
    monkeypatch.delenv(TOKEN_ENV)
    seen: list[str] = []

    def on_ready(base: str) -> None:
        seen.append(base)
        threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
        check_that_a_full_queue_answers_503(base)

    narrow = {"max_replicas": 1, "max_ongoing_requests": 1, "max_queued_requests": 1, "batch_wait_ms": 500}
    serve_forever(bundle_uri, CONFIG.model_copy(update=narrow), on_ready)
    [base] = seen
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", httpx.URL(base).port), timeout=5)
    assert not serve.status().proxies


def check_that_a_full_queue_answers_503(base: str) -> None:
    """One request at work and one waiting; a batch waits 500 ms, so that the others come meanwhile."""

    def status(_: int) -> int:
        return httpx.post(f"{base}/v1/recommend", json={"profile": SPACE, "k": 1}, timeout=30).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = set(pool.map(status, range(8)))
    assert statuses == {200, 503}
