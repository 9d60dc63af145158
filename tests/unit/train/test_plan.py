import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rayrec import stages
from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.data.loader import Loader
from rayrec.models.config import ModelConfig
from rayrec.models.encoder import load_encoder
from rayrec.models.ranker import new_model
from rayrec.models.recommender import open_groups
from rayrec.stages import RunConfig
from rayrec.text import item_texts
from rayrec.train import plan as plan_module
from rayrec.train.config import TrainConfig
from rayrec.train.engine import Engine
from rayrec.train.memory import empty_model, memory
from rayrec.train.plan import Resources, catalogue_states, epoch_of, plan, plan_lines, this_machine
from tests import tiny
from tests.workers import settings

AMPLE = Resources("a hall of machines", 64, 8, 10**12, 10**11)
LOADER = LoaderConfig(streams=4, slots_per_batch=200)


def made(dataset: str, model: ModelConfig, resources: Resources = AMPLE, **train: Any) -> dict[str, Any]:
    return plan(dataset, model=model, loader=LOADER, config=TrainConfig.model_validate(train), resources=resources)


@pytest.mark.parametrize("tuning", ["lora", "layers"])
def test_every_stage_counts_what_its_model_opens(data: Dataset, language_model: str, tuning: str) -> None:
    config = tiny.model_config(language_model, tuning=tuning)
    found = made(data.uri, config, controls=["random_weights"])["stages"]
    train = TrainConfig(controls=("random_weights",))
    lower, model = new_model(config, num_items=data.num_items, use_text=True, seed=0)
    assert list(found) == [stage.name for stage in train.all_stages()]
    for stage in train.all_stages():
        opened = open_groups(model, set(stage.learning_rates))
        groups = {group: sum(value.numel() for _, value in values) for group, values in opened.items()}
        total = sum(value.numel() for value in model.parameters())
        assert found[stage.name]["parameters"] == {"total": total, "trainable": sum(groups.values()), **groups}
    shape, below = empty_model(config, data.num_items)
    assert below == sum(value.numel() for value in lower.model.parameters())
    assert all(value.is_meta for value in shape.parameters())


def test_memory_by_hand() -> None:
    """Ten parameters, of which four train, and a buffer of three numbers."""
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    model.register_buffer("fixed", torch.zeros(3))
    found = [memory(model, 4, TrainConfig(num_workers=2), stage) for stage in range(4)]
    assert [each["weights"] for each in found] == [40 + 12, 40 + 12, 40 + 12, 20 + 12]
    assert [each["gradients"] for each in found] == [16, 16, 8, 8]
    assert [each["copy"] for each in found] == [0, 8, 8, 8]
    assert [each["optimizer"] for each in found] == [32, 16, 16, 16]
    assert [each["states"] for each in found] == [100, 92, 84, 64]
    assert [each["buffers"] for each in found] == [16, 16, 16, 16 + 40]
    # 18 bytes a trained parameter, shared; 2 a trained one at ZeRO 2; 4 one of the largest layer at 3; 2 a frozen one.
    assert [each["deepspeed"] for each in found] == [None, None, 36 + 8 + 12, 36 + 32 + 6]
    assert [each["host"] for each in found] == [0] * 4


def test_what_is_offloaded_is_the_hosts() -> None:
    """Weights, gradients, copy, optimiser and host: the same bytes in other places, but for what lies on a disk."""
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    model.register_buffer("fixed", torch.zeros(3))

    def placed(zero_stage: int, **offload: Any) -> list[int | None]:
        config = TrainConfig.model_validate({"num_workers": 2, "zero_stage": zero_stage, **offload})
        found = memory(model, 4, config, zero_stage)
        return [found[key] for key in ("weights", "gradients", "copy", "optimizer", "host")]

    assert placed(2, offload_optimizer="cpu") == [52, 0, 0, 0, 8 + 8 + 16]
    assert placed(3, offload_optimizer="cpu", offload_parameters="cpu") == [12, 0, 0, 0, 20 + 8 + 8 + 16]
    assert placed(3, offload_parameters="cpu") == [12, 8, 8, 16, 20]
    disk = {"offload_optimizer": "nvme", "offload_parameters": "nvme", "offload_folder": "/fast"}
    assert placed(3, **disk) == [12, 0, 0, 0, 8]


def test_memory_falls_with_the_stage_and_the_workers(data: Dataset, language_model: str) -> None:
    config = tiny.model_config(language_model)
    by_workers = [made(data.uri, config, num_workers=workers)["stages"]["tuned"]["memory"] for workers in (2, 4, 8)]
    for figures in by_workers:
        states = [figures[stage]["states"] for stage in "0123"]
        assert states == sorted(set(states), reverse=True)
        assert figures["3"]["deepspeed"] < figures["2"]["deepspeed"]
    for stage in "123":
        states = [figures[stage]["states"] for figures in by_workers]
        assert states == sorted(set(states), reverse=True)
    assert len({figures["0"]["states"] for figures in by_workers}) == 1


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_memory_is_what_deepspeed_holds(alone: None, data: Dataset, language_model: str, zero_stage: int) -> None:
    config = TrainConfig.model_validate({"num_workers": 1, "zero_stage": zero_stage})
    stage = config.stages[2]
    _, model = new_model(tiny.model_config(language_model), num_items=data.num_items, use_text=True, seed=0)
    trainable = sum(
        value.numel() for values in open_groups(model, set(stage.learning_rates)).values() for _, value in values
    )
    expected = memory(model, trainable, config, zero_stage)
    engine = Engine(model, stage, config, 1)
    try:
        optimizer = engine.engine.optimizer
        own = getattr(optimizer, "optimizer", optimizer)
        for index, group in enumerate(own.param_groups):
            if zero_stage == 3:  # it names the parameters of a group as it steps it
                group["params"] = [optimizer.fp32_partitioned_groups_flat[index]]
            for value in group["params"]:
                value.grad = torch.zeros_like(value)
        own.step()
        states = [state[name] for state in own.state.values() for name in ("exp_avg", "exp_avg_sq")]
        weights = [getattr(value, "ds_tensor", value) for value in model.parameters()]
        flat = "fp32_partitioned_groups_flat" if zero_stage == 3 else "single_partition_of_fp32_groups"
        copies = getattr(optimizer, flat, [])
        padding = 4 * 2 * 2 * len(own.param_groups)
        assert sum(state.nbytes for state in states) == pytest.approx(expected["optimizer"], abs=padding)
        assert sum(copy.nbytes for copy in copies) == pytest.approx(expected["copy"], abs=padding)
        held = sum(value.nbytes for value in weights) + sum(value.nbytes for value in model.buffers())
        assert held == expected["weights"]
        places = {value.untyped_storage().data_ptr() for value in weights}
        assert not places & {copy.untyped_storage().data_ptr() for copy in copies}
        if zero_stage == 3:
            assert optimizer.grad_partitions_flat_buffer.nbytes == expected["gradients"]
    finally:
        engine.destroy()


def test_the_states_of_the_catalogue_are_as_large_as_their_file(
    data: Dataset, language_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.model_config(language_model, max_tokens=7)
    train = TrainConfig(controls=("random_weights",))
    written = settings(data, tmp_path, config, train).states
    sizes = {(Path(folder) / "states.bin").stat().st_size for folder in written.values()}
    found = made(data.uri, config, controls=["random_weights"])["catalogue_states"]
    assert {found["bytes"]} == sizes
    assert (found["texts"], found["copies"], found["exact"]) == (60, len(written), True)
    assert made(data.uri, config)["catalogue_states"]["copies"] == 1
    assert found["mean_tokens"] == pytest.approx(found["bytes"] / 60 / 32 / 4, abs=0.01)
    monkeypatch.setattr(plan_module, "TOKENISED", 30)
    texts = item_texts(data.catalogue())
    drawn = catalogue_states(texts, config, load_encoder(config)[1].hidden_size)
    assert drawn["exact"] is False
    assert drawn["bytes"] == pytest.approx(found["bytes"], rel=0.1)


def test_an_epoch_is_about_what_the_loader_makes(data: Dataset) -> None:
    config = LoaderConfig(streams=2, slots_per_batch=100)
    micro_batches = []
    for step in Loader(data, config, seed=0).epoch(0):
        filled = sum(bool((batch.lengths_B > batch.first_target_B).any()) for batch in step.batches)
        if not filled:
            break
        micro_batches.append(filled)
    found, rows = epoch_of(data, config), data.rows("train")
    assert (found["rows"], found["slots"]) == (len(rows), sum(map(len, rows["items"].to_pylist())))
    assert 0.85 * sum(micro_batches) < found["micro_batches"] <= sum(micro_batches)
    assert 0.7 * len(micro_batches) < found["steps"] <= len(micro_batches)


def test_the_id_table_and_the_steps(data: Dataset, language_model: str) -> None:
    found = made(data.uri, tiny.model_config(language_model), num_workers=2)
    assert found["id_table"] == {"rows": 60, "bytes_a_row": 64, "bytes": 60 * 16 * 4}
    hashed = made(data.uri, tiny.model_config(language_model, id_rows=50), num_workers=2)
    assert hashed["id_table"]["bytes"] == 50 * 16 * 4
    assert found["epoch"] == epoch_of(data, LOADER)
    scales = found["stages"]["scales"]
    assert (scales["steps"], scales["micro_batches"]) == (60, 240)
    assert scales["epochs"] == round(60 / found["epoch"]["steps"], 2)


def test_what_is_too_little_is_named(data: Dataset, language_model: str) -> None:
    config = tiny.model_config(language_model)
    assert made(data.uri, config, num_workers=3, use_gpu=True)["shortages"] == []
    poor = Resources("a small machine", 2, 1, 1000, 2000)
    found = made(data.uri, config, poor, num_workers=5, cpus_per_worker=2, use_gpu=True)
    short = {each["of"]: (each["seen"], each["needed"]) for each in found["shortages"]}
    peak = max(stage["memory"]["2"]["states"] + stage["memory"]["2"]["buffers"] for stage in found["stages"].values())
    assert short == {
        "loader.streams": (4, 5),
        "CPUs of a small machine": (2, 10),
        "GPUs of a small machine": (1, 5),
        "bytes of a GPU of a small machine": (2000, peak),
        "bytes of memory of a small machine": (1000, found["host"]["workers"]),
        "bytes of memory of a small machine for encoding": (1000, 2 * found["catalogue_states"]["bytes"]),
    }
    lines = plan_lines(found)
    expected = "SHORTAGE: CPUs of a small machine: 2 seen, 10 needed; lower train.num_workers or cpus_per_worker"
    assert expected in lines
    assert found["host"]["training"] == 0
    on_cpu = made(data.uri, config, num_workers=3)["host"]
    assert on_cpu["workers"] == 3 * on_cpu["worker"] == 3 * sum(list(on_cpu.values())[:-2])
    assert on_cpu["training"] > 0
    moved = made(data.uri, config, num_workers=3, offload_optimizer="cpu")["host"]
    assert moved["offloaded"] + moved["training"] == pytest.approx(on_cpu["training"], rel=0.2)
    assert moved["offloaded"] > 0


def test_a_range_of_workers_is_planned_for_the_fewest(data: Dataset, language_model: str) -> None:
    config = tiny.model_config(language_model)
    poor = Resources("a small machine", 2, 0, None, None)
    elastic = made(data.uri, config, poor, num_workers=5, min_workers=2)
    fewest = made(data.uri, config, poor, num_workers=2)
    assert elastic["stages"] == fewest["stages"]
    assert elastic["host"] == fewest["host"]
    assert [each["of"] for each in elastic["shortages"]] == ["loader.streams"]
    assert plan_lines(elastic)[0].startswith("2 (up to 5) CPU workers, ")
    assert plan_lines(fewest)[0].startswith("2 CPU workers, ")


def test_a_plan_is_stable_and_is_json(data: Dataset, language_model: str) -> None:
    config = tiny.model_config(language_model)
    found = made(data.uri, config)
    assert found == made(data.uri, config)
    assert json.loads(json.dumps(found)) == found
    tuned = next(line for line in plan_lines(found) if line.startswith("tuned "))
    parameters = found["stages"]["tuned"]["parameters"]
    assert tuned.split()[1:4] == [f"{parameters['total']:,}", f"{parameters['trainable']:,}", "20"]


def test_what_is_not_known_is_said(language_model: str, tmp_path: Path) -> None:
    config = tiny.model_config(language_model)
    unknown = replace(AMPLE, where="a cluster", gpu_bytes=None)
    found = made(str(tmp_path / "none"), config, unknown, use_gpu=True)
    assert (found["epoch"], found["catalogue_states"], found["id_table"]["bytes"]) == (None, None, None)
    assert "`rayrec prepare`" in found["unknown"][0]
    assert found["unknown"][1].startswith("gpu_bytes of a cluster")
    assert found["stages"]["id_only"]["epochs"] is None
    assert "ID table: ? MB, 64 bytes a row" in plan_lines(found)
    elsewhere = config.model_copy(update={"language_model": "nobody/has-this"})
    found = made(str(tmp_path / "none"), elsewhere, replace(AMPLE, cpus=1))
    assert "`hf download nobody/has-this`" in found["unknown"][-1]
    assert [each["of"] for each in found["shortages"]] == ["CPUs of a hall of machines"]
    assert any(line.startswith("unknown: the language model") for line in plan_lines(found))


def test_what_training_would_refuse_is_refused(language_model: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trainable_layers is 9; .* has 3 layers"):
        empty_model(tiny.model_config(language_model, trainable_layers=9), 1)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ValueError, match="is a gpt2; expected a BERT-like encoder"):
        empty_model(tiny.model_config(str(tmp_path)), 1)


def test_memory_is_no_more_than_the_container_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("123456\n")
    monkeypatch.setattr(plan_module, "_LIMITS", (str(limit),))
    assert this_machine().host_bytes == 123456
    limit.write_text("max\n")
    assert (this_machine().host_bytes or 10**9) > 10**6


def test_a_running_cluster_is_asked_and_one_that_is_down_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch, language_model: str, tmp_path: Path
) -> None:
    import ray

    config = RunConfig(run=str(tmp_path), model=tiny.model_config(language_model))
    joined: list[str] = []
    monkeypatch.setattr(ray, "init", lambda address: joined.append(address))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0, "memory": 5e9})
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        found, _ = stages.plan_training(config)
    assert joined == [address]
    assert [(each["of"], each["seen"]) for each in found["shortages"]] == [(f"CPUs of the Ray cluster at {address}", 1)]
    assert found["resources"]["host_bytes"] == 5_000_000_000

    found, _ = stages.plan_training(config)
    assert (joined, found["shortages"]) == ([address], [])
    assert f"{address}, which does not answer" in found["unknown"][-1]
    monkeypatch.delenv("RAY_ADDRESS")  # nothing is joined, and nothing started
    assert stages.plan_training(config)[0]["resources"]["where"] == "this machine"
    assert joined == [address]
