"""Do 95 % intervals hold what they should: paired differences of two systems with a known one, simulated.

Two systems whose users' NDCGs hang together (of 150 users, seven in ten score alike in both), 1,000 bootstrap samples.

    python benchmarks/intervals.py   # writes results/intervals.json
"""

import json
import platform
from pathlib import Path

import numpy as np
from data import git, machine

from rayrec.statistics import interval
from rayrec.storage import provenance

RESULT = Path(__file__).parent / "results" / "intervals.json"
REPETITIONS, USERS, SAMPLES = 1000, 150, 1000
ALIKE, FIRST, SECOND = 0.7, (0.7, 1.3), (0.5, 1.5)
"""Share of users alike in both, and the beta distributions of the systems' NDCGs."""


def covered() -> int:
    """In how many repetitions the interval holds the true difference."""
    generator = np.random.default_rng(0)
    true = (1 - ALIKE) * (FIRST[0] / sum(FIRST) - SECOND[0] / sum(SECOND))
    found = 0
    for seed in range(REPETITIONS):
        b_U = generator.beta(*SECOND, USERS)
        a_U = np.where(generator.random(USERS) < ALIKE, b_U, generator.beta(*FIRST, USERS))
        one = interval(a_U - b_U, SAMPLES, seed)
        found += one.low <= true <= one.high
    return found


def main() -> None:
    """Simulates, and writes the result."""
    share = covered() / REPETITIONS
    result = {
        "question": "do 95 % intervals of paired differences cover in 93 to 97 % of repetitions",
        "commit": git("rev-parse", "HEAD"),
        "changed_since_commit": bool(git("status", "--porcelain", "--", ":/rayrec", ":/benchmarks/*.py")),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **provenance({})["packages"]},
        "config": {"repetitions": REPETITIONS, "users": USERS, "samples": SAMPLES, "seed": 0},
        "covered": share,
        "met": 0.93 <= share <= 0.97,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"covered": share, "met": result["met"]}))


if __name__ == "__main__":
    main()
