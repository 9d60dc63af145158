"""How training runs: workers, DeepSpeed, optimisation, and the stages in which capacity opens."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

ZERO_SHOT = "zero_shot"
"""The name of what training starts from: the training-free text scorer, or what TrainConfig.start_from names."""

OURS = {
    "train_batch_size": "loader.streams",
    "train_micro_batch_size_per_gpu": "loader.slots_per_batch",
    "gradient_accumulation_steps": "loader.streams and train.num_workers",
    "gradient_clipping": "train.clip",
    "optimizer": "learning_rates of train.stages and train.weight_decay",
    "scheduler": "train.warmup_steps",
    **dict.fromkeys(("bf16", "bfloat16", "fp16", "amp", "torch_autocast", "data_types"), "train.precision"),
    "activation_checkpointing": "train.activation_checkpointing",
    "zero_optimization.stage": "train.zero_stage",
    "zero_optimization.offload_optimizer.device": "train.offload_optimizer",
    "zero_optimization.offload_optimizer.nvme_path": "train.offload_folder",
    "zero_optimization.offload_param.device": "train.offload_parameters",
    "zero_optimization.offload_param.nvme_path": "train.offload_folder",
    "zero_allow_untested_optimizer": "nothing: the optimiser is torch's AdamW",
    "zero_force_ds_cpu_optimizer": "nothing: the optimiser is torch's AdamW",
}
"""Keys of DeepSpeed's JSON that follow from keys of ours."""

ParameterGroup = Literal["scales", "adapters", "id", "language_model"]
Control = Literal["random_weights", "shuffled_texts", "id_only"]


def zero_shot_of(control: Control | None) -> str | None:
    """The name of the training-free text scorer under a control; None where there is no text."""
    if control == "id_only":
        return None
    return ZERO_SHOT if control is None else f"{ZERO_SHOT}_{control}"


class StageConfig(BaseModel):
    """One stage: an engine and a checkpoint series of its own; its result is a system of the report.

    A stage starts from an earlier stage's result or, where `start` is null, from the training-free text scorer (from
    random ID vectors where `control` is id_only). `learning_rates` names the parameter groups it trains. The change is
    kept only where validation improves. The learning rates rise over `warmup_steps`, then fall linearly to zero at
    `steps`; training ends there, or when validation has not improved `patience` times in a row.

    A control tells what the texts or the pretraining bring: the same network on random weights of the language model,
    with the items' texts dealt to other items, or with ID vectors alone and no text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    start: str | None = None
    control: Control | None = None
    learning_rates: dict[ParameterGroup, float] = Field(min_length=1)
    steps: int = Field(200, ge=1)
    validate_every: int = Field(20, ge=1)
    patience: int = Field(6, ge=1)
    pull: float = Field(0.0, ge=0)


DEFAULT_STAGES = (
    StageConfig(name="scales", learning_rates={"scales": 0.1}, steps=60),
    StageConfig(name="frozen", start="scales", learning_rates={"scales": 1e-2, "adapters": 1e-3}, steps=120, pull=0.1),
    StageConfig(
        name="tuned",
        start="frozen",
        learning_rates={"scales": 3e-3, "adapters": 3e-4, "language_model": 2e-3},
        steps=20,
        validate_every=5,
        pull=0.1,
    ),
    StageConfig(name="text_id", start="tuned", learning_rates={"id": 3e-3}, steps=60, validate_every=10),
    StageConfig(
        name="id_only", control="id_only", learning_rates={"scales": 5e-2, "adapters": 1e-3, "id": 3e-3}, steps=120
    ),
)


class TrainConfig(BaseModel):
    """Ray Train and DeepSpeed; the one source of every hyper-parameter.

    With `min_workers` training starts, and goes on after a loss, with as many workers as there is room for, from so
    many up to `num_workers`; without it, it waits for room for all. `max_failures` counts deaths without notice; nodes
    that Ray has announced to be taken count for nothing. Where one phase of a run lasts `hang_seconds`, the rank that
    holds up the others is named, and the workers start again.

    Validation chooses by NDCG at `validation_k`, deeper than the report looks, for the top ten alone are too few to
    choose by; it ranks for `validation_users` at most.

    A checkpoint is due every `checkpoint_every` steps and every `checkpoint_minutes`. A step with a loss or a gradient
    that is not finite is skipped; `max_skipped` of them in a row send the stage back to its last checkpoint, and where
    that does not help it ends.

    `start_from` is the URI of a stage's weights, trained with the same language model on any data set: all but their ID
    vectors take the place of the training-free text scorer as the zero_shot system. Without `stages` nothing is trained
    here, and evaluation tells what was learnt there.

    `precision` is what the language model's trained layers run in; auto takes what the hardware does well. With
    `activation_checkpointing` they keep their input alone and run again in the backward pass. `offload_optimizer` (from
    ZeRO 1, nvme at 3) and `offload_parameters` (ZeRO 3) keep these in host memory or in `offload_folder` on a local
    disk. `deepspeed` is merged into DeepSpeed's JSON, for what has no key here.

    Each of `controls` repeats the text scorer and every text stage that trains no ID vectors, with the same budget,
    under names such as tuned_random_weights. Profiles stay as they are, and name words of items' true texts.

    What metrics.jsonl holds goes to the `wandb_project` of Weights & Biases too, where one is named; `wandb_mode`
    offline writes it to logs/wandb for `wandb sync`. `trace_steps` is of how many steps of each stage torch's profiler
    writes a trace.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_workers: int = Field(2, ge=1)
    min_workers: int | None = Field(None, ge=1)
    use_gpu: bool = False
    cpus_per_worker: float = Field(1, gt=0)
    zero_stage: Literal[0, 1, 2, 3] = 2
    offload_optimizer: Literal["cpu", "nvme"] | None = None
    offload_parameters: Literal["cpu", "nvme"] | None = None
    offload_folder: str | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    activation_checkpointing: bool = False
    deepspeed: dict[str, Any] = {}
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0)
    warmup_steps: int = Field(10, ge=0)
    like_weight: float = Field(0.3, ge=0)
    validation_k: int = Field(100, ge=1)
    validation_users: int = Field(5000, ge=1)
    checkpoint_every: int = Field(100, ge=1)
    checkpoint_minutes: float = Field(15, gt=0)
    max_skipped: int = Field(5, ge=1)
    checkpoints_kept: int = Field(2, ge=1)
    max_failures: int = Field(2, ge=0)
    wandb_project: str | None = Field(None, min_length=1)
    wandb_mode: Literal["online", "offline"] = "online"
    trace_steps: int = Field(0, ge=0)
    hang_seconds: float = Field(1800, gt=0)
    start_from: str | None = None
    stages: tuple[StageConfig, ...] = DEFAULT_STAGES
    controls: tuple[Literal["random_weights", "shuffled_texts"], ...] = ()

    def all_stages(self) -> tuple[StageConfig, ...]:
        """The stages and, for each of `controls`, their repetitions."""
        repeated = [stage for stage in self.stages if stage.control is None and "id" not in stage.learning_rates]
        return self.stages + tuple(
            stage.model_copy(
                update={
                    "name": f"{stage.name}_{control}",
                    "start": stage.start and f"{stage.start}_{control}",
                    "control": control,
                }
            )
            for control in self.controls
            for stage in repeated
        )

    def systems(self) -> tuple[str, ...]:
        """Names of all that training publishes."""
        controls = (stage.control for stage in self.all_stages())
        starts = [start for control in dict.fromkeys(controls) if (start := zero_shot_of(control)) is not None]
        return tuple(dict.fromkeys([ZERO_SHOT, *starts, *(stage.name for stage in self.all_stages())]))

    @property
    def fewest_workers(self) -> int:
        """With so many workers training runs."""
        return self.num_workers if self.min_workers is None else self.min_workers

    @model_validator(mode="after")
    def _workers_in_order(self) -> "TrainConfig":
        if self.fewest_workers > self.num_workers:
            raise ValueError(
                f"train.min_workers={self.min_workers} is above train.num_workers={self.num_workers}, the most there "
                "are; lower it, or set null to train with num_workers only"
            )
        return self

    @model_validator(mode="after")
    def _offload_that_deepspeed_does(self) -> "TrainConfig":
        for key, place, least in (
            ("offload_optimizer", self.offload_optimizer, 3 if self.offload_optimizer == "nvme" else 1),
            ("offload_parameters", self.offload_parameters, 3),
        ):
            if place is not None and self.zero_stage < least:
                raise ValueError(
                    f"train.{key}={place} needs ZeRO {least}, and train.zero_stage={self.zero_stage}; "
                    f"set train.zero_stage={least} or train.{key}=null"
                )
            if place == "nvme" and self.offload_folder is None:
                raise ValueError(f"train.{key}=nvme needs a folder on a local disk; set train.offload_folder")
        return self

    @field_validator("deepspeed")
    @classmethod
    def _nothing_that_has_a_key_of_ours(cls, block: dict[str, Any]) -> dict[str, Any]:
        for key, source in OURS.items():
            found: Any = block
            for part in key.split("."):
                found = found.get(part) if isinstance(found, dict) else None
            if found is not None:
                raise ValueError(f"train.deepspeed has {key}={found!r}, which follows from {source}; set that instead")
        return block

    @model_validator(mode="after")
    def _stages_in_order(self) -> "TrainConfig":
        if self.controls and self.start_from is not None:
            raise ValueError(
                f"train.start_from={self.start_from} gives the stages a start that controls cannot have, and "
                f"train.controls={list(self.controls)}; set one of the two"
            )
        before: dict[str, StageConfig] = {}
        for stage in self.all_stages():
            if stage.name in before or stage.name.startswith(ZERO_SHOT):
                raise ValueError(f"two stages are called {stage.name!r}; give each its own name ({ZERO_SHOT} is taken)")
            if stage.start is not None and stage.start not in before:
                raise ValueError(f"stage {stage.name!r} starts from {stage.start!r}, which is no earlier stage")
            if stage.start is not None and before[stage.start].control != stage.control:
                raise ValueError(f"stage {stage.name!r} and its start {stage.start!r} differ in control")
            before[stage.name] = stage
        return self
