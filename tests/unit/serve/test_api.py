import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rayrec.serve.api import build_api
from rayrec.serve.config import ServeConfig
from rayrec.serve.ranker import RequestRanker
from rayrec.serve.requests import ModelInfo, Ranking, RankRequest, Recommendation, RecommendRequest
from rayrec.serve.security import token_digest
from tests.unit.serve.catalogue import film_bundle

LIMITS = ServeConfig(max_k=5, max_candidates=3, max_history=4, max_text=30)
CANDIDATES = [{"item_id": "love1"}]


class DirectAnswers:
    """Answers one request at a time."""

    def __init__(self) -> None:
        self.ranker = RequestRanker(film_bundle())

    async def recommend(self, request: RecommendRequest) -> Recommendation:
        return self.ranker.recommend([request])[0]

    async def rank(self, request: RankRequest) -> Ranking:
        return self.ranker.rank(request)

    async def ready(self) -> ModelInfo:
        return self.ranker.model


@pytest.fixture(scope="module")
def http() -> TestClient:
    return TestClient(build_api(DirectAnswers(), LIMITS, None), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def guarded() -> TestClient:
    return TestClient(build_api(DirectAnswers(), LIMITS, token_digest("s3cret")), raise_server_exceptions=False)


def test_recommend(http: TestClient):
    answer = http.post("/v1/recommend", json={"history": [{"item_id": "space1", "rating": 5}], "k": 2})
    assert answer.status_code == 200
    assert [item["item_id"] for item in answer.json()["items"]] == ["space3", "space2"]
    assert set(answer.json()) == {"items", "unknown_items", "model"}


def test_rank(http: TestClient):
    candidates = [{"item_id": "love1"}, {"title": "Deep Space", "categories": ["space"]}]
    answer = http.post("/v1/rank", json={"user": {"profile": "space"}, "candidates": candidates})
    assert answer.status_code == 200
    assert [item["candidate"] for item in answer.json()["items"]] == [1, 0]


def events(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"item_id": "space1", **fields} for _ in range(count)]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, ["profile"]),
        ({"history": [], "profile": "  "}, ["profile"]),
        ({"profile": "x", "k": 0}, ["k"]),
        ({"profile": "x", "k": 6}, ["k"]),
        ({"profile": "x" * 31}, ["profile"]),
        ({"profile": "\ud800"}, ["profile"]),
        ({"profile": None}, ["profile"]),
        ({"profile": "x", "kk": 3}, ["kk"]),
        ({"profile": "x", "as_of": -1}, ["as_of"]),
        ({"profile": "x", "as_of": 10**30}, ["as_of"]),
        ({"profile": "x", "exclude": [7]}, ["exclude", 0]),
        ({"history": events(5)}, ["history"]),
        ({"history": [{}]}, ["history", 0, "item_id"]),
        ({"history": [{"item_id": ""}]}, ["history", 0, "item_id"]),
        ({"history": events(1, rating=float("nan"))}, ["history", 0, "rating"]),
        ({"history": events(1, timestamp="yesterday")}, ["history", 0, "timestamp"]),
        ({"history": [*events(1, timestamp=5), *events(1)]}, ["history"]),
    ],
)
def test_bad_recommend_requests_name_the_field(http: TestClient, body: dict[str, Any], field: list[str | int]):
    check_refused(http, "/v1/recommend", body, field)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"user": {"profile": "x"}, "candidates": []}, ["candidates"]),
        ({"user": {"profile": "x"}, "candidates": CANDIDATES * 4}, ["candidates"]),
        ({"user": {"profile": "x"}, "candidates": [{}]}, ["candidates", 0]),
        ({"user": {"profile": "x"}, "candidates": [{"title": ""}]}, ["candidates", 0, "title"]),
        ({"user": {"profile": "x"}, "candidates": [*CANDIDATES, {"item_id": "gone"}]}, ["candidates", 1, "item_id"]),
        ({"user": {"profile": "x"}, "candidates": [{"title": "x", "text": "y" * 31}]}, ["candidates", 0, "text"]),
        ({"user": {}, "candidates": CANDIDATES}, ["user", "profile"]),
        ({"candidates": CANDIDATES}, ["user"]),
    ],
)
def test_bad_rank_requests_name_the_field(http: TestClient, body: dict[str, Any], field: list[str | int]):
    check_refused(http, "/v1/rank", body, field)


def check_refused(http: TestClient, path: str, body: dict[str, Any], field: list[str | int]) -> None:
    answer = http.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert [problem["loc"] for problem in answer.json()["detail"]] == [["body", *field]]
    assert answer.json()["detail"][0]["msg"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/recommend", '{"profile": ["ann@example.com"]}'),
        ("/v1/recommend", '{"profile": "ann@example.com, whose address is too long"}'),
        ("/v1/recommend", '{"profile": "x", "ann@example.com": 1}'),
        ("/v1/recommend", '{"history": [{"item_id": "x", "rating": "ann@example.com"}]}'),
        ("/v1/recommend", '{"profile": "ann@example.com'),
        ("/v1/recommend", '"ann@example.com"'),
        ("/v1/recommend", "ann@example.com"),
        ("/v1/rank", '{"user": {"profile": "x"}, "candidates": [{"item_id": "ann@example.com"}]}'),
    ],
)
def test_a_refusal_repeats_nothing_of_the_texts(http: TestClient, path: str, body: str):
    answer = http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["msg"]
    assert "example.com" not in answer.text


def test_a_mistyped_field_is_named(http: TestClient):
    answer = http.post("/v1/recommend", json={"profile": "x", "profil": "y", "my key": 1})
    assert [problem["loc"] for problem in answer.json()["detail"]] == [["body", "profil"], ["body", "(a key)"]]


def test_a_body_that_is_no_json_is_refused(http: TestClient):
    answer = http.post("/v1/recommend", content=b"{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 422


def test_openapi_shows_the_limits_of_this_endpoint(http: TestClient):
    shapes = http.get("/openapi.json").json()["components"]["schemas"]
    assert shapes["RecommendRequest"]["properties"]["k"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 5,
        "default": 5,
        "title": "K",
    }
    assert shapes["RankRequest"]["properties"]["candidates"]["maxItems"] == 3
    assert http.get("/docs").status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_need_no_token(guarded: TestClient, path: str):
    assert guarded.get(path).status_code == 200


RANK = {"user": {"profile": "x"}, "candidates": CANDIDATES}
CALLS: list[Callable[[TestClient, dict[str, str]], Any]] = [
    lambda http, headers: http.post("/v1/recommend", json={"profile": "space"}, headers=headers),
    lambda http, headers: http.post("/v1/rank", json=RANK, headers=headers),
    lambda http, headers: http.get("/docs", headers=headers),
    lambda http, headers: http.get("/openapi.json", headers=headers),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Bearer s3cret2", "Bearer s3cre", "Basic s3cret"]
)
def test_every_other_route_answers_401_without_the_token(guarded: TestClient, call: Any, header: str | None):
    answer = call(guarded, {} if header is None else {"Authorization": header})
    assert answer.status_code == 401
    assert "Authorization: Bearer" in answer.json()["detail"]
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("header", ["Bearer s3cret", "bearer s3cret"])
def test_the_token_opens_every_route(guarded: TestClient, call: Any, header: str):
    assert call(guarded, {"Authorization": header}).status_code == 200


def test_a_path_that_does_not_exist_says_so_only_with_the_token(guarded: TestClient):
    assert guarded.get("/v2").status_code == 401
    assert guarded.get("/v2", headers={"Authorization": "Bearer s3cret"}).status_code == 404
