import numpy as np
import pyarrow as pa
import pytest

from rayrec.data.hashing import hash_fractions, hash_strings

NAMES = pa.array([f"item {number}" for number in range(4000)])


def test_the_hash_never_changes() -> None:
    known = hash_strings(pa.array(["", "a", "b", "é", "item 1"]), seed=7).tolist()
    assert known == [
        1593918348581160074,
        18078866310920102940,
        5045286773126121894,
        11024455084710396112,
        3541960077741353228,
    ]


def test_slices_chunks_and_nulls_hash_like_their_strings() -> None:
    whole = hash_strings(NAMES)
    assert (hash_strings(NAMES[100:200]) == whole[100:200]).all()
    assert hash_strings(pa.array([None, "x"])).tolist() == hash_strings(pa.array(["", "x"])).tolist()
    assert len(hash_strings(pa.array([], pa.string()))) == 0


def test_names_differ_and_spread_evenly() -> None:
    assert len(set(hash_strings(NAMES).tolist())) == len(NAMES)
    fractions = hash_fractions(NAMES, 3)
    assert fractions.mean() == pytest.approx(0.5, abs=0.02)
    assert np.bincount((fractions * 8).astype(int)).min() > 400


def test_seeds_are_unrelated() -> None:
    assert abs(np.corrcoef(hash_fractions(NAMES, 0), hash_fractions(NAMES, 1))[0, 1]) < 0.06
