"""How training runs: workers, DeepSpeed, optimisation, and the stages in which capacity opens."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ParameterGroup = Literal["scales", "adapters", "id", "language_model"]


class StageConfig(BaseModel):
    """One stage: an engine and a checkpoint series of its own; its result is a system of the report.

    A stage starts from another stage's result, or (start null) from the training-free scorer, trains some parameter
    groups and keeps the change only where validation improves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    start: str | None = None
    use_text: bool = True
    train: tuple[ParameterGroup, ...]
    learning_rate: float = Field(1e-3, gt=0)
    epochs: int = Field(5, ge=1)
    max_steps: int | None = Field(None, ge=1)
    validate_every: int = Field(20, ge=1)
    patience: int = Field(4, ge=1)
    pull: float = Field(0.0, ge=0)


class TrainConfig(BaseModel):
    """Ray Train and DeepSpeed; the one source of every hyper-parameter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_workers: int = Field(2, ge=1)
    use_gpu: bool = False
    cpus_per_worker: float = Field(1, gt=0)
    zero_stage: Literal[0, 1, 2, 3] = 2
    dtype: Literal["fp32", "bf16"] = "fp32"
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0)
    warmup_steps: int = Field(10, ge=0)
    like_weight: float = Field(0.3, ge=0)
    checkpoint_every: int = Field(100, ge=1)
    checkpoints_kept: int = Field(2, ge=1)
    max_failures: int = Field(2, ge=0)
    stages: tuple[StageConfig, ...] = (
        StageConfig(name="frozen", train=("scales", "adapters")),
        StageConfig(name="tuned", start="frozen", train=("scales", "adapters", "language_model"), learning_rate=3e-4),
        StageConfig(name="text_id", start="tuned", train=("scales", "adapters", "id")),
        StageConfig(name="id_only", use_text=False, train=("scales", "adapters", "id")),
    )
    serve: str = "text_id"
