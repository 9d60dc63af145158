"""What is searched, how, and for how long."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Value = int | float | str | bool


class Range(BaseModel):
    """Numbers from `low` to `high`, both included: whole ones where both are; evenly in their logarithm where `log`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> "Range":
        if self.high <= self.low or (self.log and self.low <= 0):
            raise ValueError(
                f"low={self.low}, high={self.high}, log={self.log} is no range; expected low below high, and above 0 "
                "where log"
            )
        return self

    def holds(self, value: Any) -> bool:
        """Whether a value may be drawn."""
        return isinstance(value, int | float) and self.low <= value <= self.high


class Choices(BaseModel):
    """One of some values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    choices: tuple[Value, ...] = Field(min_length=2)

    def holds(self, value: Any) -> bool:
        """Whether a value may be drawn."""
        return value in self.choices


class TuneConfig(BaseModel):
    """A search over keys of `train`, `model` and `loader`, judged by the validation value of `export_stage`.

    A trial trains that stage and those it starts from. `space` maps keys, such as
    train.stages.tuned.learning_rates.language_model, to what is drawn for them; without it the usual keys are searched
    around the config's values. `search` draws by a tree-structured Parzen estimator (Bergstra et al., 2011) or at
    random. `scheduler` stops trials that fall behind: asha compares them after `grace` of `export_stage`'s steps, and
    again when they have done `reduction` times as many (Li et al., 2020); median where they lie below the median of the
    others. What a stage before it does is never judged by itself.

    The search ends with `trials` trials, those of earlier commands counted, or after `hours` of this command, whose
    unfinished trials the next command goes on with. `concurrent` trials run at once: by default as many as the cluster
    has room for. A process of each waits on the head node.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    space: dict[str, Range | Choices] = {}
    trials: int = Field(20, ge=1)
    hours: float | None = Field(None, gt=0)
    concurrent: int | None = Field(None, ge=1)
    search: Literal["tpe", "random"] = "tpe"
    scheduler: Literal["asha", "median", "none"] = "asha"
    grace: float = Field(0.1, gt=0, le=1)
    reduction: int = Field(3, ge=2)
