"""What the report measures."""

from pydantic import BaseModel, ConfigDict, Field


class EvaluateConfig(BaseModel):
    """Cut-off, bootstrap, and the pairs of systems whose difference is reported where both were measured.

    With `on_ray`, blocks of users are scored on Ray Data, for test splits that take one process too long; the report
    is the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: int = Field(10, ge=1)
    bootstrap: int = Field(1000, ge=10)
    users_per_block: int = Field(256, ge=1)
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
        ("text_id", "like_rates"),
    )
