"""What a step costs a GPU by ZeRO stage, on 8, 64 and 512 of them: bytes, seconds, memory; and what of it holds here.

Bytes that one GPU sends in a step, f = (N - 1) / N, G bytes of trained weights, M bytes of large parameters, trained or
not (of at least 100,000 elements), S bytes of the others, which stay whole under ZeRO 3; m micro-batches:

    ZeRO 0   2 G f                 all-reduce of the gradients
    ZeRO 1   3 G f                 all-reduce, then all-gather of the weights: DeepSpeed's default is no reduce-scatter
    ZeRO 2   2 m G f + G f         the same, with the gradients reduced after every micro-batch
    ZeRO 3   m G f + w m M f + S f reduce-scatter; large parameters gathered w times a micro-batch (once where DeepSpeed
                                   keeps all of them until the backward pass, up to 1e9; else twice), small ones once

Seconds of communication: bytes / (share * the narrower of NVLink and the node's network cards, in one direction), and
for each collective the latency of NCCL's low-latency protocol. Seconds of compute: tokens * (6 * trained + 4 * frozen
that gradients pass + 2 * frozen below them) / (share * peak); layers whose output is cached cost nothing; attention's
products of tokens with tokens, under 2 % at these lengths, and the user tower are left out. Overlap lies between none
(their sum) and all (the larger).

Memory, bf16 with fp32 AdamW: weights 2, gradients 2, copy and states 12 bytes of a trained parameter, 2 of a frozen
one, each divided by N from the ZeRO stage on that shards it; activations and buffers come on top.

    python benchmarks/cost_model.py   # measures bytes and compute here, writes results/cost-model.json
"""

import argparse
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "cost-model.json"
ZERO_STAGES = (0, 1, 2, 3)
GPUS = (8, 64, 512)
TOKENS = 2048 * 32
"""Places of texts a GPU and step: 2,048 distinct items and profiles of 32 tokens."""
PERSISTENT = 100_000
"""DeepSpeed's stage3_param_persistence_threshold, in elements."""
KEPT = 1_000_000_000
"""Its stage3_max_live_parameters and stage3_max_reuse_distance."""
BUCKET = 500_000_000
"""Its reduce_bucket_size, in elements."""
HEADS, HEAD_PARTS = 332_316, 41
"""Elements that train beside the language model and the ID table, at embedding_size 128, and in how many parameters."""
GROUPS, SMALL = 4, 6
"""Parameter groups of the optimiser, each gathered by itself; all-reduces of a few numbers: counts, losses, norm"""

Result = dict[str, Any]


@dataclass(frozen=True)
class Hardware:
    """A node of GPUs.

    NVIDIA's data sheet of the H100 SXM: 989 TFLOP/s dense bf16, 80 GB, NVLink 900 GB/s, that is 450 in one direction;
    a DGX H100 has eight of them and a 400 Gb/s card for each. Latencies: hwLat and baseLat in NCCL's
    src/graph/tuning.cc, low-latency protocol, microseconds. The two shares are assumed.
    """

    peak: float = 989e12
    memory: float = 80e9
    nvlink: float = 450e9
    card: float = 50e9
    gpus_a_node: int = 8
    ring_us: tuple[float, float, float] = (6.6, 0.6, 2.7)
    tree_us: tuple[float, float, float] = (6.8, 0.6, 5.0)
    compute_share: float = 0.4
    bandwidth_share: float = 0.8

    def bandwidth(self, gpus: int) -> float:
        """Bytes a second that each GPU sends in a ring: NVLink's in a node, beyond it what the cards let through."""
        return self.nvlink if gpus <= self.gpus_a_node else min(self.nvlink, self.gpus_a_node * self.card)

    def latency(self, kind: str, gpus: int) -> float:
        """Seconds of a collective of nothing: an all-reduce goes up and down a tree, the others once around a ring."""
        nodes, inside = math.ceil(gpus / self.gpus_a_node), min(gpus, self.gpus_a_node)
        base, near, far = self.tree_us if kind == "all_reduce" else self.ring_us
        if kind == "all_reduce":
            return (base + 2 * ((inside - 1) * near + math.log2(nodes) * far)) * 1e-6
        return (base + (gpus - 1 - (nodes if nodes > 1 else 0)) * near + (nodes if nodes > 1 else 0) * far) * 1e-6


@dataclass(frozen=True)
class Shape:
    """What lies on a GPU and is run there.

    Attributes:
        name: in words.
        trained, frozen: numbers of elements of each parameter.
        through: frozen elements that gradients pass.
        below: frozen elements that are run forward alone.
    """

    name: str
    trained: Sequence[int]
    frozen: Sequence[int]
    through: int
    below: int


def layer_of(hidden: int, inner: int, *, gated: bool) -> list[int]:
    """Elements of each parameter of a transformer's layer: BERT's with biases, or a gated one of decoders without."""
    if gated:
        return [hidden * hidden] * 4 + [hidden * inner] * 3 + [hidden] * 2
    return [hidden * hidden] * 4 + [hidden * inner] * 2 + [hidden] * 9 + [inner]


def shape(name: str, layer: Sequence[int], layers: int, lora_hidden: int | None = None, rank: int = 8) -> Shape:
    """Some layers on a GPU, trained whole or by LoRA on query and value; what is below them is cached.

    Args:
        name: in words.
        layer: of layer_of().
        layers: held.
        lora_hidden: the hidden size where LoRA trains them.
        rank: of LoRA.
    """
    heads, held = [HEADS // HEAD_PARTS] * HEAD_PARTS, [*layer] * layers
    heads[0] += HEADS - sum(heads)
    if lora_hidden is None:
        return Shape(name, [*held, *heads], [], 0, 0)
    return Shape(name, [lora_hidden * rank] * 4 * layers + heads, held, sum(held), 0)


MINILM, BERT = layer_of(384, 1536, gated=False), layer_of(768, 3072, gated=False)
DECODER = layer_of(4096, 11008, gated=True)
SHAPES = (
    shape("MiniLM (23 M), LoRA on 2 of 6 layers", MINILM, 2, 384),
    shape("MiniLM, all 6 layers", MINILM, 6),
    shape("BERT-base (110 M), LoRA on 2 of 12 layers", BERT, 2, 768),
    shape("BERT-base, all 12 layers", BERT, 12),
    shape("decoder (7 B), LoRA on all 32 layers", DECODER, 32, 4096),
    shape("decoder, all 32 layers", DECODER, 32),
)


def sent(trained: Sequence[int], frozen: Sequence[int], gpus: int, stage: int, size: int = 2, micro: int = 1) -> float:
    """Bytes that one GPU sends in a step.

    Args:
        trained, frozen: elements of each parameter.
        gpus: N.
        stage: of ZeRO.
        size: bytes of an element.
        micro: micro-batches a GPU and step.
    """
    share, gradients = (gpus - 1) / gpus, sum(trained)
    if stage < 3:
        reduced = 2 * gradients * (micro if stage == 2 else 1)
        return size * share * (reduced + (gradients if stage else 0))
    everything = [*trained, *frozen]
    large = sum(count for count in everything if count >= PERSISTENT)
    gathered = large * (1 if sum(everything) <= KEPT else 2)
    return size * share * (micro * (gradients + gathered) + sum(everything) - large)


def collectives(one: Shape, stage: int) -> Mapping[str, int]:
    """Calls a step with one micro-batch, by kind; ZeRO 3 gathers each parameter by itself."""
    buckets, everything = math.ceil(sum(one.trained) / BUCKET), [*one.trained, *one.frozen]
    if stage < 3:
        return {"all_reduce": buckets + SMALL, "all_gather": GROUPS if stage else 0}
    again = sum(count >= PERSISTENT for count in everything) if sum(everything) > KEPT else 0
    return {"all_reduce": SMALL, "reduce_scatter": buckets, "all_gather": len(everything) + again}


def memory(trained: int, frozen: int, gpus: int, stage: int) -> float:
    """Bytes of a GPU, without activations and buffers."""
    weights = 2 * (trained + frozen) / (gpus if stage == 3 else 1)
    gradients = 2 * trained / (gpus if stage >= 2 else 1)
    return weights + gradients + 12 * trained / (gpus if stage else 1)


def deepspeed_memory(one: Shape, gpus: int, stage: int, gpus_a_node: int) -> float | None:
    """DeepSpeed's own estimate of the same (fp16, its buffers included), where it has one."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    trained, frozen, nodes = sum(one.trained), sum(one.frozen), math.ceil(gpus / gpus_a_node)
    if stage == 2:
        return float(estimate_zero2_model_states_mem_needs(trained, gpus // nodes, nodes, cpu_offload=False)[1]) + (
            2.0 * frozen
        )
    if stage == 3:
        largest = max([*one.trained, *one.frozen])
        needs = estimate_zero3_model_states_mem_needs(trained, largest, gpus // nodes, nodes, cpu_offload=False)
        return float(needs[1]) + 2.0 * frozen / gpus
    return None


def flop(one: Shape, tokens: int) -> float:
    """Floating-point operations of a step's matrix products with weights."""
    return tokens * (6.0 * (sum(one.trained) - HEADS) + 4.0 * one.through + 2.0 * one.below)


def prediction(one: Shape, gpus: int, stage: int, hardware: Hardware) -> Result:
    """One row of the model.

    Args:
        one: what is trained.
        gpus: N.
        stage: of ZeRO.
        hardware: of the nodes.
    """
    size = sent(one.trained, one.frozen, gpus, stage)
    waiting = sum(calls * hardware.latency(kind, gpus) for kind, calls in collectives(one, stage).items())
    communication = size / (hardware.bandwidth_share * hardware.bandwidth(gpus)) + waiting
    compute = flop(one, TOKENS) / (hardware.compute_share * hardware.peak)
    held = memory(sum(one.trained), sum(one.frozen), gpus, stage)
    return {
        "model": one.name,
        "gpus": gpus,
        "zero_stage": stage,
        "trained": sum(one.trained),
        "frozen": sum(one.frozen),
        "sent_bytes": round(size),
        "latency_s": waiting,
        "communication_s": communication,
        "compute_s": compute,
        "efficiency": compute / (compute + communication),
        "efficiency_all_overlapped": compute / max(compute, communication),
        "memory_bytes": round(held),
        "deepspeed_memory_bytes": deepspeed_memory(one, gpus, stage, hardware.gpus_a_node),
        "fits": held < hardware.memory,
    }


def compared_bytes(rows: Sequence[Result]) -> list[Result]:
    """Measured rows with what the formula says of them, in fp32 as it was trained here, and its relative errors.

    They are told of the bytes of DeepSpeed's calls in rings, and of those of the loopback device: gloo's reduce-scatter
    is an all-reduce, and TCP has headers.
    """
    compared = []
    for row in rows:
        told = {name: row[name] for name in ("kind", "ranks", "zero_stage", "sent_bytes", "loopback_bytes", "calls")}
        predicted = sent(row["trained"], row["frozen"], row["ranks"], row["zero_stage"], size=4)
        errors = {
            name: predicted / row[measured] - 1 if predicted else None
            for name, measured in (("error_of_calls", "sent_bytes"), ("error_of_loopback", "loopback_bytes"))
        }
        compared.append({**told, "predicted_bytes": round(predicted), **errors})
    return compared


def main() -> None:
    """Measures, predicts and writes the result."""
    from cost_checks import measured_bytes, measured_compute
    from data import git, machine
    from training import folder_of

    from rayrec.storage import provenance

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="for what is prepared")
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    folder, hardware = folder_of(options.folder), Hardware()
    rows, skipped = measured_bytes(folder)
    compute = measured_compute(folder, options.repetitions)
    result = {
        "question": "bytes, seconds and memory of a step by ZeRO stage on 8, 64 and 512 GPUs, and what holds here",
        "commit": git("rev-parse", "HEAD"),
        "changed_since_commit": bool(git("status", "--porcelain", "--", ":/rayrec", ":/benchmarks/*.py")),
        "seed": 0,
        "machine": machine(),
        "versions": {"python": platform.python_version(), **provenance({})["packages"]},
        "config": {"hardware": asdict(hardware), "tokens": TOKENS, "gpus": GPUS, "repetitions": options.repetitions},
        "bytes": compared_bytes(rows),
        "bytes_skipped": skipped,
        "compute": compute,
        "predictions": [prediction(one, n, stage, hardware) for one in SHAPES for n in GPUS for stage in ZERO_STAGES],
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"written": RESULT.name, "skipped": skipped, "compute": compute}))


if __name__ == "__main__":
    main()
