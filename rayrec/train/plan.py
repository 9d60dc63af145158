"""What a training would take, before it runs: parameters, memory, steps, and what there is too little of.

Nothing is trained, downloaded or written: the model is built without weights, the dataset is read where it is there.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.models.config import ModelConfig
from rayrec.models.recommender import Recommender, open_groups
from rayrec.storage import absolute, is_published
from rayrec.text import item_texts
from rayrec.train.config import StageConfig, TrainConfig
from rayrec.train.memory import FLOAT, empty_model, local_path, memory, numel

ZERO_STAGES = (0, 1, 2, 3)
TOKENISED = 200_000
"""Texts of a larger catalogue are drawn to estimate its tokens."""
NOTES = (
    "states: fp32 weights, gradients and AdamW's two states, and the copy of trained weights that ZeRO 1 to 3 keep "
    "though they are fp32, whatever train.precision is; what is offloaded counts as host memory; buffers: DeepSpeed's, "
    "at most; activations are in neither",
    "deepspeed: its own estimator, which assumes fp16 with Adam on fp32 master weights (we train fp32), of trainable "
    "parameters, and 2 bytes for each frozen one; it has none for ZeRO 0 and 1",
)
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Resources:
    """What the workers may use; None where it is not known.

    Attributes:
        where: in words.
        cpus: of all nodes.
        gpus: of all nodes.
        host_bytes: memory of all nodes together.
        gpu_bytes: memory of one GPU.
    """

    where: str
    cpus: float | None
    gpus: float | None
    host_bytes: int | None
    gpu_bytes: int | None


def this_machine() -> Resources:
    """What this machine has; its memory is what is free now, and no more than its container may use."""
    free = []
    if os.path.exists("/proc/meminfo"):
        with open("/proc/meminfo") as file:
            free = [1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable")]
    for path in _LIMITS:
        if os.path.exists(path):
            with open(path) as file:
                limit = file.read().strip()
            free += [int(limit)] if limit.isdigit() else []
    gpus = [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]
    return Resources("this machine", os.cpu_count(), len(gpus), min(free, default=None), min(gpus, default=None))


def catalogue_states(texts: Sequence[str], config: ModelConfig, hidden_size: int) -> dict[str, Any]:
    """Size of the memory-mapped states of a catalogue's texts, by tokenising them.

    Raises:
        OSError: the tokenizer is not on this machine.
    """
    tokenizer = AutoTokenizer.from_pretrained(local_path(config), local_files_only=True)
    exact = len(texts) <= TOKENISED
    drawn = range(len(texts)) if exact else np.random.default_rng(0).choice(len(texts), TOKENISED, replace=False)
    chosen = [texts[index] for index in drawn]
    tokens = tokenizer(chosen, truncation=True, max_length=config.max_tokens)["input_ids"] if chosen else []
    total = sum(map(len, tokens)) * len(texts) // max(len(chosen), 1)
    mean = round(total / max(len(texts), 1), 2)
    return {"texts": len(texts), "mean_tokens": mean, "bytes": total * hidden_size * FLOAT, "exact": exact}


def epoch_of(data: Dataset, loader: LoaderConfig) -> dict[str, int]:
    """About how many steps and micro-batches an epoch has, from the footers of the training rows alone.

    Rows of unequal length and streams of unequal size make some more.
    """

    def count(path: str) -> tuple[int, int]:
        footer = data.open(path).metadata
        groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
        columns = [group.column(index) for group in groups for index in range(group.num_columns)]
        slots = sum(column.num_values for column in columns if column.path_in_schema.split(".")[0] == "items")
        return footer.num_rows, slots

    with ThreadPoolExecutor(16) as pool:
        counts = list(pool.map(count, data.files("rows/train")))
    rows, slots = sum(rows for rows, _ in counts), sum(slots for _, slots in counts)
    windows = loader.streams * max(ceil(rows / loader.streams / loader.shuffle_window), 1)
    micro_batches = windows * ceil(slots / windows / loader.slots_per_batch)
    return {"rows": rows, "slots": slots, "micro_batches": micro_batches, "steps": ceil(micro_batches / loader.streams)}


def plan(
    dataset: str, *, model: ModelConfig, loader: LoaderConfig, config: TrainConfig, resources: Resources
) -> dict[str, Any]:
    """What `train` would take, as JSON values: bytes, parameters, steps; `unknown` and `shortages` in words.

    Where the number of workers is a range, all is for the fewest, each of which holds the most.

    Args:
        dataset: URI; it need not be published.
        model: shape of the recommender.
        loader: order of the rows.
        config: workers, DeepSpeed, stages.
        resources: what there is.
    """
    data = Dataset(dataset) if is_published(dataset) else None
    most, config = config.num_workers, config.model_copy(update={"num_workers": config.fewest_workers})
    made: dict[str, Any] = {
        "workers": config.num_workers,
        "most_workers": most,
        "device": "GPU" if config.use_gpu else "CPU",
        "zero_stage": config.zero_stage,
        "precision": config.precision,
        "resources": asdict(resources),
        "epoch": epoch_of(data, loader) if data is not None else None,
        "stages": {},
        "catalogue_states": None,
        "id_table": None,
        "host": None,
        "unknown": [],
        "notes": list(NOTES),
    }
    if data is None:
        made["unknown"].append(
            f"no dataset at {absolute(dataset)}: the catalogue's states and the length of an epoch are not known, and "
            "parameters and memory are without the ID table; `rayrec prepare` with this config makes them known"
        )
    looked_at = ("cpus", "host_bytes", *(("gpus", "gpu_bytes") if config.use_gpu else ()))
    missing = [name for name in looked_at if getattr(resources, name) is None]
    if missing:
        made["unknown"].append(f"{', '.join(missing)} of {resources.where}: whether they suffice was not looked at")
    try:
        shape, lower = empty_model(model, data.num_items if data is not None else 0)
        hidden = shape.top.hidden_size
        if data is not None:
            made["catalogue_states"] = catalogue_states(item_texts(data.catalogue()), model, hidden)
    except OSError as error:
        made["unknown"].append(
            f"the language model {model.language_model!r} is not on this machine ({str(error).splitlines()[0]}): "
            f"parameters and memory are not known; `hf download {model.language_model}` makes them known"
        )
        return {**made, "shortages": shortages(made, loader, config, resources)}
    made["id_table"] = _id_table(shape, data)
    made["stages"] = {stage.name: _stage(shape, stage, loader, config, made["epoch"]) for stage in config.all_stages()}
    made["host"] = _host(shape, lower, data.num_items if data is not None else 0, config, made["stages"])
    kinds = {stage.control == "random_weights" for stage in config.all_stages()} | {False}
    if made["catalogue_states"] is not None:
        made["catalogue_states"]["copies"] = len(kinds)
    return {**made, "shortages": shortages(made, loader, config, resources)}


def _id_table(shape: Recommender, data: Dataset | None) -> dict[str, Any]:
    size = shape.config.embedding_size
    rows = None if data is None else shape.fusion.ids.get_parameter("weight").shape[0]
    return {"rows": rows, "bytes_a_row": size * FLOAT, "bytes": None if rows is None else rows * size * FLOAT}


def _stage(
    shape: Recommender, stage: StageConfig, loader: LoaderConfig, config: TrainConfig, epoch: Mapping[str, int] | None
) -> dict[str, Any]:
    """One stage's parameters, at most so many steps, and memory a worker by ZeRO stage."""
    opened = open_groups(shape, set(stage.learning_rates))
    groups = {group: sum(value.numel() for _, value in values) for group, values in opened.items()}
    trainable = sum(groups.values())
    return {
        "parameters": {"total": numel(shape), "trainable": trainable, **groups},
        "steps": stage.steps,
        "micro_batches": stage.steps * loader.streams,
        "epochs": None if epoch is None else round(stage.steps / max(epoch["steps"], 1), 2),
        "memory": {str(number): memory(shape, trainable, config, number) for number in ZERO_STAGES},
    }


def _peak(stages: Mapping[str, Any], config: TrainConfig) -> int:
    """Bytes of the largest stage where a worker trains."""
    chosen = [stage["memory"][str(config.zero_stage)] for stage in stages.values()]
    return max((figures["states"] + figures["buffers"] for figures in chosen), default=0)


def _host(
    shape: Recommender, lower: int, num_items: int, config: TrainConfig, stages: Mapping[str, Any]
) -> dict[str, int]:
    """Bytes of host memory: what one worker holds, and all of them."""
    texts = len({None if stage.control == "id_only" else stage.control for stage in config.all_stages()} | {None})
    trainable = max((stage["parameters"]["trainable"] for stage in stages.values()), default=0)
    held = {
        "shadow_model": FLOAT * numel(shape) + sum(buffer.nbytes for buffer in shape.buffers()),
        "frozen_layers": FLOAT * lower * texts,
        "catalogue_vectors": FLOAT * num_items * shape.top.hidden_size * (texts + 1),
        "best_weights": 2 * FLOAT * trainable,  # the best so far, and those that are being validated
        "training": 0 if config.use_gpu else _peak(stages, config),
        "offloaded": max((stage["memory"][str(config.zero_stage)]["host"] for stage in stages.values()), default=0),
    }
    worker = sum(held.values())
    return {**held, "worker": worker, "workers": worker * config.num_workers}


def shortages(
    made: Mapping[str, Any], loader: LoaderConfig, config: TrainConfig, resources: Resources
) -> list[dict[str, Any]]:
    """What there is too little of: `of` what, how much was `seen` and is `needed`, and the `remedy`."""
    found: list[dict[str, Any]] = []

    def check(of: str, seen: float | None, needed: float | None, remedy: str) -> None:
        if seen is not None and needed is not None and seen < needed:
            found.append({"of": of, "seen": seen, "needed": needed, "remedy": remedy})

    workers, where = config.num_workers, resources.where
    remedy = "each worker reads at least one: lower train.num_workers, or raise loader.streams in a new run"
    check("loader.streams", loader.streams, made["most_workers"], remedy)
    check(
        f"CPUs of {where}",
        resources.cpus,
        workers * config.cpus_per_worker,
        "lower train.num_workers or cpus_per_worker",
    )
    if config.use_gpu:
        check(f"GPUs of {where}", resources.gpus, workers, "lower train.num_workers, or set train.use_gpu=false")
        remedy = "raise train.zero_stage or train.num_workers, offload, or open fewer parameters"
        check(f"bytes of a GPU of {where}", resources.gpu_bytes, _peak(made["stages"], config), remedy)
    if made["host"] is not None:
        remedy = "lower train.num_workers, or add nodes"
        check(f"bytes of memory of {where}", resources.host_bytes, made["host"]["workers"], remedy)
    states = made["catalogue_states"]
    if states is not None:
        remedy = (
            "the driver that encodes the catalogue holds its states twice: a larger driver, or lower model.max_tokens"
        )
        check(f"bytes of memory of {where} for encoding", resources.host_bytes, 2 * states["bytes"], remedy)
    return found


def plan_lines(made: Mapping[str, Any]) -> list[str]:
    """The plan to be read by people.

    Args:
        made: of plan().
    """
    device, zero, states, epoch = made["device"], made["zero_stage"], made["catalogue_states"], made["epoch"]
    more = "" if made["most_workers"] == made["workers"] else f" (up to {made['most_workers']})"
    headline = f"{made['workers']}{more} {device} workers, ZeRO {zero}, precision {made['precision']}"
    lines = [f"{headline}; megabytes a {device} worker by ZeRO stage"]
    titles = [f"states {number}" for number in ZERO_STAGES] + ["buffers", "deepspeed 2", "3"]
    lines.append(f"{'stage':<24}{'parameters':>13}{'trainable':>12}{'steps':>8}{'epochs':>8}" + _cells(titles))
    for name, stage in made["stages"].items():
        figures, counts = stage["memory"], stage["parameters"]
        cells = [_mb(figures[str(number)]["states"]) for number in ZERO_STAGES]
        cells += [_mb(figures[str(zero)]["buffers"]), *(_mb(figures[number]["deepspeed"]) for number in ("2", "3"))]
        epochs = "?" if stage["epochs"] is None else stage["epochs"]
        known = f"{name:<24}{counts['total']:>13,}{counts['trainable']:>12,}{stage['steps']:>8}{epochs:>8}"
        lines.append(known + _cells(cells))
    lines += made["notes"]
    if made["host"] is not None:
        lines.append(
            f"host memory: {_mb(made['host']['worker'])} MB a worker, {_mb(made['host']['workers'])} MB in all"
        )
    if made["id_table"] is not None:
        table = made["id_table"]
        lines.append(f"ID table: {_mb(table['bytes'])} MB, {table['bytes_a_row']} bytes a row")
    if states is not None:
        about = "" if states["exact"] else "about "
        each = f"{states['texts']} texts of {states['mean_tokens']} tokens"
        lines.append(f"catalogue states, memory-mapped: {about}{_mb(states['bytes'])} MB x {states['copies']}; {each}")
    if epoch is not None:
        packed = f"about {epoch['micro_batches']} micro-batches in {epoch['steps']} steps, or some more"
        lines.append(f"an epoch: {epoch['rows']} rows, {packed}")
    lines += [f"unknown: {reason}" for reason in made["unknown"]]
    lines += [
        f"SHORTAGE: {short['of']}: {short['seen']:,.15g} seen, {short['needed']:,.15g} needed; {short['remedy']}"
        for short in made["shortages"]
    ]
    return lines


def _cells(values: Sequence[str]) -> str:
    return "".join(f"{value:>13}" for value in values)


def _mb(value: int | None) -> str:
    return "?" if value is None else f"{value / 1e6:,.1f}"
