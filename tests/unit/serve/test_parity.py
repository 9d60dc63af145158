"""A request made of a user's raw events becomes the very row that evaluation scores."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from rayrec.schema import batch_of_rows
from rayrec.serve.ranker import RequestRanker
from rayrec.terms import terms_of
from tests.serving import users_at
from tests.synthetic import generate, published
from tests.unit.serve.catalogue import film_bundle


def test_raw_events_become_the_rows_that_evaluation_scores(tmp_path: Path):
    logs = generate(num_users=60, num_items=80, num_interactions=3000)
    data = published(logs, tmp_path)
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
