"""The tables of results/quality-*.json: every system on every set, and the differences between them."""

import json
from pathlib import Path

from table_parts import Result, about, table

QUALITY = (
    ("all", "ndcg"),
    ("warm", "ndcg"),
    ("cold", "ndcg"),
    ("cold_in_all", "ndcg"),
    ("no_history", "ndcg"),
    ("all", "auc"),
    ("all", "gauc"),
)
COMPARED = (("all", "ndcg"), ("warm", "ndcg"), ("cold", "ndcg"), ("cold_in_all", "ndcg"), ("all", "auc"))
NO_WINS = {
    "tallrec-movie": "Its 2,000 records are windows over some 30 people and overlap: behaviour scorers see the targets "
    "in other records, and intervals by record are too narrow. Nothing here is a win; see the published protocol below."
}


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
            [
                system + " (not kept)" * (not first["kept"].get(system, True)),
                *(_figure(shown["systems"][system][name][metric]) for name, metric in QUALITY),
            ]
            for system in result["order"]
        ]
        by_pair: dict[tuple[str, str], dict[tuple[str, str], Result]] = {}
        for one in shown["differences"]:
            by_pair.setdefault((one["system"], one["less"]), {})[one["slice"], one["metric"]] = one
        compared = [
            [
                f"{system} - {less}",
                *(
                    _difference(
                        found.get(key),
                        result["dataset"] not in NO_WINS and _tells_apart(less, shown["systems"][less][key[0]][key[1]]),
                    )
                    for key in COMPARED
                ),
            ]
            for (system, less), found in by_pair.items()
        ]
        seeds = [str(one["seed"]) for one in result["by_seed"]]
        users = ", ".join(f"{name} {number:,}" for name, number in first["users"].items())
        minutes = ", ".join(f"{sum(one['seconds'].values()) / 60:.0f}" for one in result["by_seed"])
        lines += [
            f"### {result['dataset']}",
            "",
            *([NO_WINS[result["dataset"]], ""] if result["dataset"] in NO_WINS else []),
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


def _tells_apart(less: str, figure: Result | None) -> bool:
    """Whether it means anything to be ahead: not of a constant, nor of ID vectors trained for too few steps."""
    constant = figure is None or (figure["mean"] == 0 and figure.get("high", figure.get("sd")) == 0)
    return not constant and less != "id_only"


def _forgotten(general: Result | None) -> list[str]:
    if not general:
        return []
    changed = [
        f"{name} {_figure(general[name])}, change {change['mean']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]"
        for name in ("tuned", "zero_shot_random_weights")
        if name in general and (change := general[name]["change"]) is not None
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


def _difference(one: Result | None, may_win: bool) -> str:
    if one is None or one["mean"] is None:
        return ""
    interval = f"± {one['sd']:.3f}" if "sd" in one else f"[{one['corrected_low']:+.3f}, {one['corrected_high']:+.3f}]"
    bold = "**" * (one["win"] and may_win)
    return f"{bold}{one['mean']:+.3f} {interval}{bold}"
