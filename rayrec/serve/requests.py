"""What a request may say and what an answer says; the limits of lists and texts come from ServeConfig."""

from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from rayrec.serve.config import ServeConfig

LAST_MOMENT = 253_402_300_799_999
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Moment = Annotated[int, Field(ge=0, le=LAST_MOMENT, description="UTC, ms since 1970")]
Labels = Annotated[list[Identifier], Field(max_length=100)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Event(_Strict):
    """One interaction of a history; without a timestamp the order of the list counts."""

    item_id: Identifier
    timestamp: Moment | None = None
    rating: Annotated[float, Field(allow_inf_nan=False)] | None = None
    event: Identifier | None = None
    review: str | None = Field(default=None, description="what the user wrote of the item")


class User(_Strict):
    """A user is a history and a profile sentence; one of them is enough."""

    history: list[Event] = []
    profile: str = Field(default="", validate_default=True)

    @field_validator("history")
    @classmethod
    def _timed_alike(cls, history: list[Event]) -> list[Event]:
        timed = sum(event.timestamp is not None for event in history)
        if timed not in (0, len(history)):
            raise ValueError(
                f"{timed} of {len(history)} events have a timestamp; give one to all of them, "
                "or to none and list the events in time order"
            )
        return history

    @field_validator("profile")
    @classmethod
    def _known_somehow(cls, profile: str, info: ValidationInfo) -> str:
        if "history" in info.data and not info.data["history"] and not profile.strip():
            raise ValueError("history and profile are both empty; give at least one of them")
        return profile


class RecommendRequest(User):
    """Asks for the best items of the catalogue that the user has not met and does not exclude."""

    k: int = 10
    exclude: list[Identifier] = []
    as_of: Moment | None = Field(
        default=None,
        description="only events strictly before it count; without it the later of the end of the logs and just after "
        "the last event of the history",
    )


class Candidate(_Strict):
    """An item by its id, or, where the bundle does not know the id or there is none, by its text."""

    item_id: Identifier | None = None
    title: str | None = None
    text: str | None = None
    categories: Labels = []
    attributes: Labels = []

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.item_id is None and self.title is None:
            raise ValueError("a candidate needs an item_id or a title")
        return self


class RankRequest(_Strict):
    """Asks for the order in which the user would take the candidates."""

    user: User
    candidates: list[Candidate]
    as_of: Moment | None = None


class ModelInfo(_Strict):
    """Which bundle answered."""

    fingerprint: str
    stage: str


class RecommendedItem(_Strict):
    """One item of the catalogue."""

    item_id: str
    title: str
    score: float
    like_probability: float


class Recommendation(_Strict):
    """Best first; `unknown_items` are ids of the history or of `exclude` that the bundle does not know."""

    items: list[RecommendedItem]
    unknown_items: list[str]
    model: ModelInfo


class RankedCandidate(_Strict):
    """One candidate; `candidate` is its position in the request."""

    candidate: int
    item_id: str | None
    title: str
    score: float
    like_probability: float


class Ranking(_Strict):
    """Best first; equal scores keep the order of the request."""

    items: list[RankedCandidate]
    unknown_items: list[str]
    model: ModelInfo


def request_types(config: ServeConfig) -> tuple[type[RecommendRequest], type[RankRequest]]:
    """The two requests with the limits of this endpoint, so that parsing enforces and OpenAPI shows them."""
    text = Annotated[str, StringConstraints(max_length=config.max_text)]
    title = Annotated[str, StringConstraints(min_length=1, max_length=config.max_text)]
    event = create_model("Event", __base__=Event, review=(text | None, Event.model_fields["review"]))
    user: dict[str, Any] = {
        "history": (list[event], Field(default=[], max_length=config.max_history)),
        "profile": (text, Field(default="", validate_default=True)),
    }
    recommend = create_model(
        "RecommendRequest",
        __base__=RecommendRequest,
        k=(int, Field(default=min(10, config.max_k), ge=1, le=config.max_k)),
        exclude=(list[Identifier], Field(default=[], max_length=config.max_history)),
        **user,
    )
    candidate = create_model("Candidate", __base__=Candidate, title=(title | None, None), text=(text | None, None))
    rank = create_model(
        "RankRequest",
        __base__=RankRequest,
        user=(create_model("User", __base__=User, **user), ...),
        candidates=(list[candidate], Field(min_length=1, max_length=config.max_candidates)),
    )
    return recommend, rank
