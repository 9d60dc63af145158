"""The tables of results/quality-*.json: every system on every set, and the differences between them."""

import json
from pathlib import Path

from table_parts import Result, about, table

QUALITY = (("all", "ndcg"), ("warm", "ndcg"), ("cold", "ndcg"), ("no_history", "ndcg"), ("all", "auc"), ("all", "gauc"))
COMPARED = (("all", "ndcg"), ("warm", "ndcg"), ("cold", "ndcg"), ("all", "auc"))


def quality_tables(folder: Path) -> list[str]:
    """Every system on every set, and the differences between them.

    Args:
        folder: of the results.
    """
    lines: list[str] = []
    for path in sorted(folder.glob("quality-*.json")):
        result = json.loads(path.read_text())
        first, joined = result["by_seed"][0], result["over_seeds"]
        shown = joined or first
        head = [f"NDCG@{result['k']} {name}" if metric == "ndcg" else metric.upper() for name, metric in QUALITY]
        systems = [
            [system, *(_figure(shown["systems"][system][name][metric]) for name, metric in QUALITY)]
            for system in result["order"]
        ]
        by_pair: dict[tuple[str, str], Result] = {}
        for one in shown["differences"]:
            by_pair.setdefault((one["system"], one["less"]), {})[one["slice"], one["metric"]] = one
        compared = [
            [f"{system} - {less}", *(_difference(found.get(key)) for key in COMPARED)]
            for (system, less), found in by_pair.items()
        ]
        seeds = [str(one["seed"]) for one in result["by_seed"]]
        users = ", ".join(f"{name} {number:,}" for name, number in first["users"].items())
        minutes = ", ".join(f"{sum(one['seconds'].values()) / 60:.0f}" for one in result["by_seed"])
        lines += [
            f"### {result['dataset']}",
            "",
            *table(["system", *head], systems),
            "",
            *table(["difference", *(f"{metric.upper()} {name}" for name, metric in COMPARED)], compared),
            "",
            *_forgotten(first["general_text"]),
            f"- Seeds {', '.join(seeds)}; minutes a seed: {minutes}.",
            f"- Users with something to find (first seed): {users}.",
            *(f"- Left out: {name}, {reason}" for name, reason in first["left_out"].items()),
            f"- {about(result)}",
            "",
        ]
    return lines[:-1]


def _forgotten(general: Result | None) -> list[str]:
    if not general:
        return []
    changed = [
        f"{name} {_figure(general[name])}, change {change['mean']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]"
        for name in ("tuned", "zero_shot_random_weights")
        if name in general and (change := general[name]["change"])["mean"]
    ]
    about = "General text, Spearman of the language model's cosines with people's judgement"
    before = f"pretrained {_figure(general['zero_shot'])}"
    return [f"- {about}: {'; '.join([before, *changed])}."]


def _figure(one: Result | None) -> str:
    if one is None or one["mean"] is None:
        return ""
    return (
        f"{one['mean']:.3f} ± {one['sd']:.3f}"
        if "sd" in one
        else f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
    )


def _difference(one: Result | None) -> str:
    if one is None or one["mean"] is None:
        return ""
    interval = f"± {one['sd']:.3f}" if "sd" in one else f"[{one['corrected_low']:+.3f}, {one['corrected_high']:+.3f}]"
    return f"{'**' * one['win']}{one['mean']:+.3f} {interval}{'**' * one['win']}"
