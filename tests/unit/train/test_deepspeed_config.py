import subprocess
import sys
from typing import Any

import pytest

from rayrec.train.config import OURS, StageConfig, TrainConfig
from rayrec.train.deepspeed_config import LARGEST_BUCKET, deepspeed_config

STAGE = StageConfig(name="all", learning_rates={"scales": 1e-2})


def config(**changes: Any) -> TrainConfig:
    return TrainConfig.model_validate({"stages": (STAGE,), **changes})


def test_every_value_of_deepspeed_is_ours() -> None:
    made = deepspeed_config(config(clip=0.25, zero_stage=3), 4, 1001)
    assert made["gradient_clipping"] == 0.25
    assert made["gradient_accumulation_steps"] == 4
    assert made["zero_optimization"] == {"stage": 3, "reduce_bucket_size": 1002, "allgather_bucket_size": 1002}
    assert not {"optimizer", "scheduler", "bf16", "fp16"} & made.keys()


def test_a_bucket_is_no_larger_than_what_trains_and_than_deepspeeds_own() -> None:
    small, large = (deepspeed_config(config(), 1, size)["zero_optimization"] for size in (10, 10**10))
    assert small["reduce_bucket_size"] == 10
    assert large["reduce_bucket_size"] == LARGEST_BUCKET == 500_000_000


def test_offload_is_where_it_was_asked_for() -> None:
    made = deepspeed_config(
        config(zero_stage=3, offload_optimizer="nvme", offload_parameters="cpu", offload_folder="/fast", use_gpu=True),
        *(1, 10),
    )["zero_optimization"]
    assert made["offload_optimizer"] == {"device": "nvme", "pin_memory": True, "nvme_path": "/fast"}
    assert made["offload_param"] == {"device": "cpu", "pin_memory": True}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zero_stage": 0, "offload_optimizer": "cpu"}, "train.offload_optimizer=cpu needs ZeRO 1, .*zero_stage=0"),
        ({"zero_stage": 2, "offload_parameters": "cpu"}, "train.offload_parameters=cpu needs ZeRO 3, .*zero_stage=2"),
        ({"zero_stage": 2, "offload_optimizer": "nvme"}, "train.offload_optimizer=nvme needs ZeRO 3"),
        ({"zero_stage": 3, "offload_parameters": "nvme"}, "train.offload_parameters=nvme .*set train.offload_folder"),
    ],
)
def test_offload_that_deepspeed_lacks_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_the_block_is_merged_and_keeps_what_is_derived() -> None:
    block = {"zero_optimization": {"overlap_comm": False, "reduce_bucket_size": 7}, "wall_clock_breakdown": True}
    made = deepspeed_config(config(zero_stage=1, deepspeed=block), 2, 10)
    assert made["zero_optimization"] == {
        "stage": 1,
        "reduce_bucket_size": 7,
        "allgather_bucket_size": 10,
        "overlap_comm": False,
    }
    assert (made["wall_clock_breakdown"], made["gradient_accumulation_steps"]) == (True, 2)


@pytest.mark.parametrize("key", OURS)
def test_the_block_may_not_say_what_we_derive(key: str) -> None:
    block: Any = 0
    for part in reversed(key.split(".")):
        block = {part: block}
    with pytest.raises(ValueError, match=r"train\.deepspeed has ") as raised:
        config(deepspeed=block)
    assert f"train.deepspeed has {key}=0, which follows from {OURS[key]}; set that instead" in str(raised.value)


def test_what_is_derived_needs_no_deepspeed() -> None:
    code = "import sys, rayrec.train.deepspeed_config; sys.exit('deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
