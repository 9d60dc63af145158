"""The parts of benchmarks/protocols.py: the random split, who is who in TALLRec's file, figures beside expectations."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from rayrec.item_stats import DAY_MS
from rayrec.metrics import group_aucs
from rayrec.statistics import bootstrap, estimate

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))
protocols = importlib.import_module("protocols")


def test_split_takes_a_quarter_of_each_user() -> None:
    users = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [20, 9, 103]))
    test_E = protocols.split(users, 0)
    assert np.bincount(users[test_E]).tolist() == [5, 2, 26]
    assert (protocols.split(users, 0) == test_E).all()
    assert (protocols.split(users, 1) != test_E).any()
    often = np.mean([protocols.split(users, seed) for seed in range(2000)], axis=0)
    np.testing.assert_allclose(often[users == 0], 0.25, atol=0.05)


def test_past_is_by_user_and_time_and_counts_by_day() -> None:
    users, items = np.array([1, 0, 1, 0]), np.array([2, 1, 0, 1])
    past = protocols.past_of(users, items, np.array([5, 3 * DAY_MS, 4, 2 * DAY_MS]), 3)
    assert past.user_E.tolist() == [0, 0, 1, 1]
    assert past.items_E.tolist() == [1, 1, 0, 2]
    counts = past.stats.counts_between(np.arange(3), np.zeros(1, np.int64), np.array([[DAY_MS], [3 * DAY_MS]]))
    assert counts.tolist() == [[1, 0, 1], [1, 1, 1]]
    batch = protocols.contexts(past.user_E, past.items_E, past.likes_E, 9)
    assert batch.items_BL.tolist() == [[1, 1], [0, 2]]
    assert batch.first_target_B.tolist() == [2, 2]


def records(*windows: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(np.arange(len(windows)), [len(films) for films in windows]), np.concatenate(windows)


def test_records_that_share_half_of_their_films_are_of_one_person() -> None:
    told = records((0, 1, 2, 3), (1, 2, 3, 4), (3, 4, 9, 8), (7, 6, 5, 3), (6, 5), (6, 6, 0, 1))
    assert protocols.people(*told).tolist() == [0, 0, 0, 1, 1, 1]
    told = records((0, 0, 1, 2), (0, 0, 7, 8))
    assert protocols.people(*told).tolist() == [0, 1], "a film told twice is one film"


def write_records(path: Path) -> None:
    """Three persons, whose records slide over ten films each; the first answers as the share of likes says."""
    written = []
    for person, answers in enumerate(("", "No.", "Yes.")):
        for place, likes in enumerate((9, 2, 8, 1)):
            films = [f'"Film {person} {place + film}"' for film in range(10)]
            answer = answers if person else "Yes." if likes > 5 else "No."
            text = f"User Preference: {', '.join(films[:likes])}\nUser Unpreference: {', '.join(films[likes:])}\n"
            text += f'Whether the user will like the target movie "Film {person} {place + 10}"?'
            written.append({"instruction": "", "input": text, "output": answer})
    path.write_text(json.dumps(written))


def test_like_share_on_a_file_of_records(tmp_path: Path) -> None:
    """Shares .9 .2 .8 .1 of three persons: one says as much, one says No to all, one says Yes to all."""
    write_records(tmp_path / "test.json")
    told = protocols.tallrec(str(tmp_path / "test.json"))
    assert told["counts"] == {"records": 12, "liked": 6, "persons": 3, "persons_with_both_answers": 1}
    labels = np.array([1, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1])
    scores = np.tile([0.9, 0.2, 0.8, 0.1], 3)
    pairs = [(yes > no) + (yes == no) / 2 for yes in scores[labels == 1] for no in scores[labels == 0]]
    assert told["like_share"]["auc"]["mean"] == pytest.approx(np.mean(pairs), abs=1e-4)
    assert told["like_share"]["gauc"]["mean"] == 1.0


def test_gauc_by_records_weighs_persons() -> None:
    labels, scores, person = np.array([1, 0, 1, 0, 0, 1]), np.array([2, 1, 0, 1, 1, 5.0]), np.array([0, 0, 1, 1, 1, 2])
    aucs_P = group_aucs(labels, scores, person, 3)
    weighted = protocols.weighted_mean(aucs_P, np.bincount(person))
    found = estimate(bootstrap([weighted], 3, 100, 0)[0][0])
    assert found.mean == pytest.approx((1 * 2 + 0 * 3) / 5)


def test_result_meets_what_is_expected_of_it() -> None:
    result = json.loads((BENCHMARKS / "results" / "protocols.json").read_text())
    for name, expected in protocols.EXPECTED.items():
        told = result["protocols"][name]["expected"]
        assert set(told) == set(expected)
        assert all(one["between"][0] <= one["found"] <= one["between"][1] and one["met"] for one in told.values())
