"""The tables of benchmarks/README.md about training: faults, checkpoints, scaling, the cost model."""

import json
from collections.abc import Sequence
from pathlib import Path

from table_parts import Result, about, table


def _result(folder: Path, name: str) -> Result | None:
    path = folder / name
    return json.loads(path.read_text()) if path.exists() else None


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _mb(value: float) -> str:
    return f"{value / 1e6:,.2f}" if value < 1e8 else f"{value / 1e6:,.0f}"


def _span(values: Sequence[float]) -> str:
    return " to ".join(f"{value:.2f}" for value in values)


def _goal_table(result: Result) -> list[str]:
    goals = result["goals"].items()
    rows = [[name.replace("_", " "), seen, wanted, "yes" if met else "NO"] for name, (seen, wanted, met) in goals]
    return table(["", "seen", "wanted", "met"], rows)


def fault_table(folder: Path) -> list[str]:
    """What hosts that are killed cost a training.

    Args:
        folder: of the results.
    """
    result = _result(folder, "faults.json")
    if result is None:
        return []
    if result["skipped"]:
        return [f"Skipped: {result['skipped']}."]
    failures = [
        [
            str(number),
            f"{one['at_s']:.0f}",
            str(one["step"]),
            str(one["repeated"]),
            f"{one['noticed_s']:.0f}" if one["noticed_s"] is not None else "",
            f"{one['recovery_s']:.1f}",
        ]
        for number, one in enumerate(result["failures"], 1)
    ]
    head = ["killed", "after, s", "at step", "steps repeated", "noticed after, s", "next new step after, s"]
    return [
        *_goal_table(result),
        "",
        *table(head, failures),
        "",
        f"- Cold start {result['cold_start_s']:.1f} s; a step takes {result['step_s']:.2f} s, a checkpoint lies "
        f"{result['config']['checkpoint_every']} steps from the next; Ray's settings: {result['health']}.",
        f"- {about(result)}",
    ]


def checkpoint_table(folder: Path) -> list[str]:
    """What checkpoints to a slow storage cost a step.

    Args:
        folder: of the results.
    """
    result = _result(folder, "checkpoints.json")
    if result is None:
        return []
    rows = [
        [
            one["state"],
            str(one["ranks"]),
            f"{one['store']['latency_s'] * 1000:.0f} ms, {one['store']['bytes_per_s'] / 1e6:g} MB/s",
            f"{one['megabytes']:.1f}",
            f"{one['step_s_without']:.3f}",
            f"{one['step_s_with']:.3f}",
            f"{one['overhead']:.1%} ({' to '.join(f'{share:.1%}' for share in one['overhead_range'])})",
            f"{one['taken']} / {one['stored']} / {one['replaced']}",
        ]
        for one in result["results"]
    ]
    head = [
        "state",
        "ranks",
        "store",
        "MB",
        "s a step without",
        "with",
        "overhead (range)",
        "taken / stored / replaced",
    ]
    return [*table(head, rows), "", f"- {about(result)}"]


def scaling_table(folder: Path) -> list[str]:
    """Two workers beside one.

    Args:
        folder: of the results.
    """
    result = _result(folder, "scaling.json")
    if result is None:
        return []
    rows = [
        [
            str(one["zero_stage"]),
            f"{one['examples_per_s_1']:.0f}",
            f"{one['examples_per_s_2']:.0f}",
            f"{one['efficiency']:.2f} ({_span(one['efficiency_range'])})",
            f"{one['machine']:.2f}",
            f"{one['of_the_machine']:.2f}",
            _share(one["communication"]),
        ]
        for one in result["results"]
    ]
    head = ["ZeRO", "examples/s, 1 worker", "2 workers", "efficiency (range)", "of two lone processes", "of those"]
    return [*table([*head, "in collectives"], rows), "", f"- {about(result)}"]


def cost_tables(folder: Path) -> list[str]:
    """What the cost model says, and what of it was measured.

    Args:
        folder: of the results.
    """
    result = _result(folder, "cost-model.json")
    if result is None:
        return []
    bytes_rows = [
        [
            one["kind"],
            str(one["ranks"]),
            str(one["zero_stage"]),
            *(_mb(one[name]) for name in ("predicted_bytes", "sent_bytes", "loopback_bytes")),
            *(_share(one[name]) for name in ("error_of_calls", "error_of_loopback")),
        ]
        for one in result["bytes"]
    ]
    compute_rows = [
        [
            one["kind"],
            f"{one['gflop_per_s']:.0f}",
            f"{one['predicted_s']:.2f}",
            f"{one['measured_s']:.2f}",
            f"{one['share']:.2f} ({_span(one['share_range'])})",
        ]
        for one in result["compute"]
    ]
    head = ["trained", "ranks", "ZeRO", "model, MB", "DeepSpeed's calls, MB", "gloo, MB", "error of calls", "of gloo"]
    skipped = [f"Bytes were not measured: {result['bytes_skipped']}.", ""] if result["bytes_skipped"] else []
    return [
        *_prediction_table(result["predictions"]),
        "",
        *(skipped or [*table(head, bytes_rows), ""]),
        *table(["trained", "GFLOP/s of products", "model, s", "measured, s", "share (range)"], compute_rows),
        "",
        f"- {about(result)}",
    ]


def search_table(folder: Path) -> list[str]:
    """A grid beside a search.

    Args:
        folder: of the results.
    """
    result = _result(folder, "tune.json")
    if result is None:
        return []
    rows = [
        [
            name,
            str(one["trials"]),
            str(one["steps"]),
            f"{one['trial_seconds']:,.0f}",
            f"{one['wall_s']:,.0f}",
            f"{one['best']:.4f}",
            ", ".join(f"{count} {state}" for state, count in one["states"].items()),
        ]
        for name, one in (("grid", result["grid"]), ("TPE and ASHA", result["asha"]))
    ]
    low, high = result["interval"]
    head = ["search", "trials", "steps", "seconds of trials", "seconds", "best validation value", "trials that"]
    interval = f"- 95 % interval of the grid's best: [{low:.4f}, {high:.4f}]"
    return [*table(head, rows), "", *_goal_table(result), "", interval, f"- {about(result)}"]


def _prediction_table(predictions: Sequence[Result]) -> list[str]:
    """A row for each model and number of GPUs; ZeRO 1 sends what ZeRO 2 does at one micro-batch."""
    rows: dict[tuple[str, int], dict[int, Result]] = {}
    for one in predictions:
        rows.setdefault((one["model"], one["gpus"]), {})[one["zero_stage"]] = one
    head = ["model", "GPUs", "MB sent by ZeRO 0 / 2 / 3", "GB held by ZeRO 0 / 1 / 2 / 3", "compute, ms"]
    head += ["communication, ms, by ZeRO 0 / 2 / 3", "compute's share of a step, none overlapped, 0 / 2 / 3"]
    return table(
        head,
        [
            [
                model,
                str(gpus),
                " / ".join(_mb(stages[stage]["sent_bytes"]) for stage in (0, 2, 3)),
                " / ".join(_held(stages[stage]) for stage in sorted(stages)),
                f"{stages[0]['compute_s'] * 1e3:,.1f}",
                " / ".join(f"{stages[stage]['communication_s'] * 1e3:,.1f}" for stage in (0, 2, 3)),
                " / ".join(f"{stages[stage]['efficiency']:.2f}" for stage in (0, 2, 3)),
            ]
            for (model, gpus), stages in rows.items()
        ],
    )


def _held(one: Result) -> str:
    return f"{one['memory_bytes'] / 1e9:.2f}" + " (too much)" * (not one["fits"])
