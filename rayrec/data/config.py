"""What `prepare` reads and writes, and how training reads it back."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MovieLensSource(_Frozen):
    """MovieLens-100K in GroupLens' layout (u.data, u.item, u.user) or RecBole's atomic files (ml-100k.inter, …)."""

    kind: Literal["movielens"] = "movielens"
    uri: str = "package://recbole/dataset_example/ml-100k"


class Columns(_Frozen):
    """Which column of the user's files holds what; None where there is none."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str = "timestamp"
    rating: str | None = None
    event: str | None = None
    title: str = "title"
    text: str | None = None
    categories: str | None = None
    attributes: str | None = None
    user_text: str | None = None


class ColumnsSource(_Frozen):
    """Plain Parquet, CSV or JSON lines files, told apart by their endings; a file, a folder or a glob."""

    kind: Literal["columns"]
    interactions: str
    items: str
    users: str | None = None
    columns: Columns = Columns()
    time_unit: Literal["s", "ms", "us", "ns"] = "s"
    category_separator: str = "|"


class DataConfig(_Frozen):
    """From logs to a dataset."""

    source: Annotated[MovieLensSource | ColumnsSource, Field(discriminator="kind")] = MovieLensSource()
    like_threshold: float | None = 4.0
    liked_events: tuple[str, ...] = ()
    disliked_events: tuple[str, ...] = ()
    valid_fraction: float = Field(0.1, gt=0, lt=0.5)
    test_fraction: float = Field(0.1, gt=0, lt=0.5)
    held_out_valid: float = Field(0.05, ge=0, lt=0.5)
    held_out_test: float = Field(0.15, ge=0, lt=0.5)
    history_length: int = Field(50, ge=1)
    max_history: int = Field(1000, ge=1)
    buckets: int = Field(8, ge=1)
    rows_per_group: int = Field(64, ge=1)
    quarantine_limit: float = Field(0.05, ge=0, le=1)


class LoaderConfig(_Frozen):
    """The order contract: V virtual streams, each packing its own micro-batches."""

    streams: int = Field(4, ge=1)
    slots_per_batch: int = Field(1600, ge=1)
    shuffle_window: int = Field(512, ge=1)
    num_negatives: int = Field(256, ge=1)
