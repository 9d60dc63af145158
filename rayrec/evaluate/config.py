"""What the report measures."""

from pydantic import BaseModel, ConfigDict, Field


class EvaluateConfig(BaseModel):
    """Cut-off, bootstrap and the systems' own settings grid."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: int = Field(10, ge=1)
    bootstrap: int = Field(1000, ge=10)
    users_per_block: int = Field(256, ge=1)
    ease_max_items: int = Field(20_000, ge=1)
