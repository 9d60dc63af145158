"""The HTTP routes as a FastAPI application over anything that can recommend and rank. Knows no Ray."""

from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from rayrec.serve.config import ServeConfig
from rayrec.serve.ranker import BadRequestError
from rayrec.serve.requests import ModelInfo, Ranking, RankRequest, Recommendation, RecommendRequest, request_types
from rayrec.serve.security import RequireToken

LONGEST_KEY = 40
"""Characters of an unknown key that a refusal repeats, so that a typing mistake is found."""


class Answers(Protocol):
    """What stands behind the routes."""

    async def recommend(self, request: RecommendRequest) -> Recommendation:
        """The best items for a user."""
        ...

    async def rank(self, request: RankRequest) -> Ranking:
        """The candidates in the user's order."""
        ...

    async def ready(self) -> ModelInfo:
        """The model that answers, once it has answered a probe."""
        ...


def _refusal(problems: list[dict[str, Any]]) -> JSONResponse:
    return JSONResponse({"detail": problems}, status_code=422)


async def _misshapen(_: Request, error: Exception) -> JSONResponse:
    """FastAPI's own answer without the input: that may hold what no log should, and NaN, which JSON cannot carry."""
    assert isinstance(error, RequestValidationError)
    return _refusal(
        [
            {"loc": [_nameable(part) for part in problem["loc"]], "msg": problem["msg"], "type": problem["type"]}
            for problem in error.errors()
        ]
    )


def _nameable(part: str | int) -> str | int:
    """A part of a location; a key that looks like no field's name is itself what somebody wrote."""
    return part if isinstance(part, int) or (part.isidentifier() and len(part) <= LONGEST_KEY) else "(a key)"


async def _unanswerable(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BadRequestError)
    return _refusal([{"loc": ["body", *error.location], "msg": str(error), "type": "value_error"}])


def build_api(answers: Answers, config: ServeConfig, digest: bytes | None) -> FastAPI:
    """The application with its routes, limits and token check.

    Args:
        answers: who answers.
        config: limits of a request.
        digest: token_digest of the token that requests must carry, or None for an open endpoint.
    """
    recommend_type, rank_type = request_types(config)
    api = FastAPI(title="rayrec", summary="Recommendations from one bundle.")
    api.add_exception_handler(RequestValidationError, _misshapen)
    api.add_exception_handler(BadRequestError, _unanswerable)
    if digest is not None:
        api.add_middleware(RequireToken, digest=digest)

    @api.post("/v1/recommend")
    async def recommend(request: recommend_type) -> Recommendation:  # type: ignore[valid-type]
        """The best items that the user has not met, described by a history, a sentence or both."""
        return await answers.recommend(request)

    @api.post("/v1/rank")
    async def rank(request: rank_type) -> Ranking:  # type: ignore[valid-type]
        """The order in which the user would take the candidates; an item the bundle has never seen is given as text."""
        return await answers.rank(request)

    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is alive."""
        return {"status": "alive"}

    @api.get("/readyz")
    async def readyz() -> ModelInfo:
        """The model is loaded and has scored a probe."""
        return await answers.ready()

    return api
