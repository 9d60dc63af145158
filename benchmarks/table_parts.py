"""What the tables of benchmarks/README.md share."""

from collections.abc import Iterable
from typing import Any

Result = dict[str, Any]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a Markdown table."""
    head = list(head)
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def about(result: Result) -> str:
    """On what a result was measured: commit, machine, seed, versions."""
    versions, contenders = {**result["versions"]}, result.get("contenders", {})
    for entry in contenders.values():
        versions |= {name: number for name, number in entry.get("versions", {}).items() if name not in versions}
    start = contenders.get("rayrec", {}).get("setup_s")
    machine = result["machine"]
    return ", ".join(
        [
            f"commit {result['commit'][:7]}{' and what was not committed yet' * result['changed_since_commit']}",
            f"{machine['cores']} cores ({machine['processor']})",
            f"{machine['memory_gib']} GiB",
            *([f"seed {result['seed']}"] if "seed" in result else []),
            *([] if start is None else [f"Ray started in {start:.1f} s"]),
            *(f"{name} {number}" for name, number in versions.items()),
        ]
    )
