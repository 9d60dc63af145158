import numpy as np
import pytest
import torch

from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.data.loader import Loader
from rayrec.models.recommender import ModelInput, Recommender
from rayrec.train.collate import Collate, pooled_profiles
from rayrec.train.config import StageConfig, TrainConfig
from rayrec.train.engine import Engine, schedule
from rayrec.train.loop import global_counts
from rayrec.train.notices import NOTHING
from rayrec.train.worker import Worker
from tests import engines, tiny
from tests.workers import settings

STAGE = StageConfig(name="all", learning_rates={"scales": 1e-2, "adapters": 1e-3}, steps=20, pull=0.5)
CONFIG = TrainConfig(
    zero_stage=0, precision="fp32", weight_decay=0.1, clip=0.7, warmup_steps=4, like_weight=0.3, stages=(STAGE,)
)


def test_the_rate_rises_and_falls_in_straight_lines() -> None:
    assert [schedule(step, 3, 10) for step in range(10)] == pytest.approx(
        [1 / 4, 2 / 4, 3 / 4, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]
    )
    assert schedule(0, 0, 5) == 1
    assert [schedule(step, 10, 2) for step in range(2)] == pytest.approx([1 / 11, 2 / 11])


@pytest.fixture(scope="module")
def worker(alone: None, data: Dataset, language_model: str, tmp_path_factory: pytest.TempPathFactory) -> Worker:
    folder = tmp_path_factory.mktemp("engine")
    model = tiny.model_config(language_model, dropout=0.0, new_item_rate=0.0, look_ahead=0.0, profile_only=0.0)
    chosen = settings(data, folder, model, CONFIG, streams=2, slots_per_batch=200, num_negatives=16)
    return Worker(chosen, lambda: NOTHING, torch.device("cpu"))


def micro_batches(worker: Worker, data: Dataset, model: Recommender) -> list[ModelInput]:
    texts = worker.initial.texts(None)
    profiles = pooled_profiles(model.top.pool, texts.profiles)
    collate = Collate(worker.stats, texts.anchor_NH, profiles, pooled_NH=texts.anchor_NH, catalogue=texts.catalogue)
    step = next(iter(Loader(data, LoaderConfig(streams=2, slots_per_batch=200), seed=0).epoch(0)))
    return [collate(batch) for batch in step.batches]


def test_a_step_is_adamw_on_sums_over_global_counts(worker: Worker, data: Dataset) -> None:
    """Neither the averaging over micro-batches that DeepSpeed does nor unequal numbers of targets show."""
    ours, plain = worker.initial.fresh(0, None).train(), worker.initial.fresh(0, None).train()
    inputs = micro_batches(worker, data, plain)
    counts, _ = global_counts(inputs)
    assert len({int(micro.counts()[0]) for micro in inputs}) == 2
    engine = Engine(ours, STAGE, CONFIG, len(inputs))
    shares = engine.step(inputs, [1, 2], counts, step=1)
    found = engine.gathered_state()
    engine.destroy()

    groups = {"scales": ("heads.", "user.log_decay", "user.dislike_weight", "user.profile_weight")}
    trained = {name: value for name, value in plain.named_parameters() if name in found}
    weights = torch.tensor([1.0, 0.3, 0.5])
    losses = torch.stack([plain(micro) for micro in inputs]).sum(0) * weights / counts.float()
    losses.sum().backward()
    torch.testing.assert_close(shares, losses.detach())
    torch.nn.utils.clip_grad_norm_(trained.values(), 0.7)
    rate = schedule(1, 4, 20)
    optimizer = torch.optim.AdamW(
        {
            "params": [value],
            "lr": rate * (1e-2 if name.startswith(groups["scales"]) else 1e-3),
            "weight_decay": 0.1 if value.ndim > 1 else 0.0,
        }
        for name, value in trained.items()
    )
    optimizer.step()
    assert set(found) == set(trained)
    start = dict(worker.initial.fresh(0, None).named_parameters())
    assert sum(not torch.equal(value, start[name]) for name, value in found.items()) > 10
    for name, value in found.items():
        np.testing.assert_allclose(value, trained[name].detach(), rtol=1e-4, atol=2e-5, err_msg=name)


def test_the_layers_run_twice_and_in_bf16_where_asked(language_model: str) -> None:
    runs, dtypes = [], set()
    top, padded = engines.model(language_model).top.train(), engines.micro_batch(0).states_X
    assert padded is not None
    lora = [value.requires_grad_() for name, value in top.named_parameters() if "lora_B" in name]  # A has no gradient
    for layer in top.model.encoder.layer:
        layer.output.dense.register_forward_hook(lambda _module, _inputs, output: dtypes.add(output.dtype))
        layer.output.dense.register_forward_hook(lambda *_: runs.append(1))

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(3)
        pooled_XH = top(padded)
        assert pooled_XH.dtype == torch.float32
        return list(torch.autograd.grad(pooled_XH.square().sum(), lora))

    whole = gradients()
    forwards = len(runs)
    top.checkpoint_layers()
    again = gradients()
    assert len(runs) == forwards + 2 * forwards
    assert dtypes == {torch.float32}
    for one, other in zip(whole, again, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    top.precision = torch.bfloat16
    for one, other in zip(whole, gradients(), strict=True):
        assert 0 < (one - other).abs().max() < 0.05 * one.abs().max()
    assert dtypes == {torch.float32, torch.bfloat16}
