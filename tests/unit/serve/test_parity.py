"""A request made of a user's raw events becomes the very row that evaluation scores."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayrec.schema import batch_of_rows
from rayrec.serve.ranker import RequestRanker
from rayrec.terms import terms_of
from tests.serving import users_at
from tests.synthetic import TOPICS, SyntheticLogs, generate, published
from tests.unit.serve.catalogue import film_bundle


def with_reviews(logs: SyntheticLogs) -> SyntheticLogs:
    """Every third interaction with a phrase of some topic, that of the item or not."""
    phrases = [phrase for topic in TOPICS.values() for phrase in topic]
    said = [phrases[row % 59] if row % 3 == 0 else None for row in range(len(logs.interactions))]
    return replace(logs, interactions=logs.interactions.append_column("review", pa.array(said, pa.string())))


@pytest.mark.parametrize("reviews", [False, True], ids=["ratings", "reviews"])
def test_raw_events_become_the_rows_that_evaluation_scores(reviews: bool, tmp_path: Path):
    logs = generate(num_users=60, num_items=80, num_interactions=3000)
    plain = published(logs, tmp_path / "plain")
    if reviews:
        logs = with_reviews(logs)
    data = published(logs, tmp_path / "dataset")
    profiles = [dataset.rows("test")["profile"].to_pylist() for dataset in (plain, data)]
    assert (profiles[0] != profiles[1]) == reviews
    catalogue = data.catalogue()
    bundle = replace(
        film_bundle(),
        items=catalogue,
        terms=terms_of(catalogue),
        rule=data.rule,
        history_length=data.history_length,
        as_of=data.cutoffs.end,
    )
    rows = data.rows("test")
    users = users_at(logs, data, rows["user_id"].to_pylist())
    contexts = RequestRanker(bundle).contexts(users, [data.cutoffs.test] * len(users))
    expected = batch_of_rows(rows).context_only()
    assert len(users) > 10
    np.testing.assert_array_equal(contexts.batch.items_BL, expected.items_BL)
    np.testing.assert_array_equal(contexts.batch.likes_BL, expected.likes_BL)
    np.testing.assert_array_equal(contexts.batch.lengths_B, expected.lengths_B)
    np.testing.assert_array_equal(contexts.batch.as_of_B, expected.as_of_B)
    assert contexts.batch.profiles == expected.profiles
