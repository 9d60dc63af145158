"""What `prepare` reads and writes, and how training reads it back."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from rayrec.data.sources.config import Frozen, MovieLensSource, Source


class CleanConfig(Frozen):
    """What is refused, what is filtered. Refused rows lie in quarantine/, with their reason."""

    quarantine_limit: float = Field(0.05, ge=0, le=1)
    repeat_window_s: float = Field(0, ge=0)
    max_text: int = Field(20_000, ge=1)
    max_events: int = Field(10_000, ge=1)
    bot_events_per_day: int | None = Field(None, ge=1)
    min_user_events: int = Field(1, ge=1)
    min_item_events: int = Field(1, ge=1)
    now: datetime | None = None


class PrivacyConfig(Frozen):
    """What is done to personal data before anything is written; serving does the same to what requests say."""

    user_ids: Literal["plain", "pseudonym"] = "pseudonym"
    key_env: str = "RAYREC_PSEUDONYM_KEY"
    redact: bool = True
    phone_regions: tuple[str, ...] = ("US", "GB", "DE", "FR")


class SplitConfig(Frozen):
    """Which interactions are targets of validation and test, and what training may not see."""

    kind: Literal["temporal", "leave_last_out"] = "temporal"
    valid_fraction: float = Field(0.1, gt=0, lt=0.5)
    test_fraction: float = Field(0.1, gt=0, lt=0.5)
    held_out_valid: float = Field(0.05, ge=0, lt=0.5)
    held_out_test: float = Field(0.15, ge=0, lt=0.5)
    held_out_users: float = Field(0, ge=0, lt=0.9)
    few_shot_users: int | None = Field(None, ge=1)
    few_shot_interactions: int | None = Field(None, ge=1)


class DataConfig(Frozen):
    """From logs to a dataset.

    `previous` is the URI of a published dataset: then `source` names what came since (interactions of new days, new or
    changed items and users), and the result is its next version. That has the previous one's number of buckets, and all
    else but `source`, `buckets`, `part_mb`, `allowed_schemes` and `clean.now` must be as it was; see previous.py.
    """

    source: Annotated[Source, Field(discriminator="kind")] = MovieLensSource()
    previous: str | None = None
    like_threshold: float | None = 4.0
    liked_events: tuple[str, ...] = ()
    disliked_events: tuple[str, ...] = ()
    clean: CleanConfig = CleanConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    split: SplitConfig = SplitConfig()
    history_length: int = Field(50, ge=1)
    max_history: int = Field(1000, ge=1)
    buckets: int | None = Field(None, ge=1)
    part_mb: int = Field(128, ge=1)
    allowed_schemes: tuple[str, ...] = ("file", "s3", "gs", "abfs", "hdfs", "memory", "package")


class LoaderConfig(Frozen):
    """The order contract: V virtual streams, each packing its own micro-batches; then how they are read ahead.

    `shuffle_window` counts rows and is rounded to whole row groups; a stream reads one ahead. Remote files are kept in
    `cache_folder`, by default below the system's temporary directory, up to `cache_mb` megabytes for a folder.
    """

    streams: int = Field(4, ge=1)
    slots_per_batch: int = Field(3200, ge=1)
    shuffle_window: int = Field(4096, ge=1)
    num_negatives: int = Field(256, ge=1)
    cache_mb: int = Field(8192, ge=1)
    cache_folder: str | None = None
