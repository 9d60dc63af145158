"""What the report measures."""

from pydantic import BaseModel, ConfigDict, Field


class EvaluateConfig(BaseModel):
    """Cut-off, bootstrap, and the pairs of systems whose difference is reported where both were measured.

    At most `max_users` test users are drawn by the seed, all where it is null. Baselines are tuned on the first
    `validation_users` of the validation split, as training is. `general_text` is the URI of a table of text_a, text_b
    and people's judgement of their similarity: with it the report tells what the language model forgot of it.

    With `on_ray`, blocks of users are scored on Ray Data, for test splits that take one process too long; the report
    is the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: int = Field(10, ge=1)
    bootstrap: int = Field(1000, ge=10)
    users_per_block: int = Field(256, ge=1)
    max_users: int | None = Field(None, ge=1)
    validation_users: int = Field(5000, ge=1)
    general_text: str | None = None
    on_ray: bool = False
    comparisons: tuple[tuple[str, str], ...] = (
        ("tuned", "frozen"),
        ("tuned", "zero_shot"),
        ("tuned", "tfidf"),
        ("tuned", "recent_popularity"),
        ("frozen", "zero_shot"),
        ("text_id", "id_only"),
        ("text_id", "tuned"),
        ("text_id", "recent_popularity"),
        ("text_id", "item_knn"),
        ("text_id", "ease"),
        ("text_id", "ials"),
        ("text_id", "like_rates"),
        ("tuned", "id_only"),
        ("tuned", "tuned_random_weights"),
        ("tuned", "tuned_shuffled_texts"),
        ("frozen", "frozen_random_weights"),
        ("frozen", "frozen_shuffled_texts"),
        ("tuned_shuffled_texts", "id_only"),
    )
