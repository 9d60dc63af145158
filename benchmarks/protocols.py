"""Published figures met again: our scorers and our metrics under the protocols that those figures were taken with.

Both protocols are good for a comparison with published figures and for nothing else.

- MovieLens-100K, random 75/25: of every user's ratings a random quarter is the test, all ratings are positives, every
  film that the user has not rated in training is ranked. It knows no time: what is learned may be later than what is
  asked.
- TALLRec's film test: 1,000 records of ten opinions and a target each. They are windows that slide over few people,
  whom the file does not name; consecutive records that share most of their opinions are taken as one person, and
  intervals are by person.

Histories weigh all alike here, for a random split has no order worth the name. Letters: E ratings, U users or
records, N items, P persons, S bootstrap samples.

    python benchmarks/protocols.py --tallrec FOLDER/test.json   # writes results/protocols.json
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from data import git, machine
from scipy import sparse

from rayrec.data.config import DataConfig
from rayrec.data.files import parts_of, read_blocks
from rayrec.data.sources.config import MovieLensSource, Source, TallrecSource
from rayrec.data.sources.listing import read_logs
from rayrec.item_stats import DAY_MS, ItemStats
from rayrec.metrics import group_aucs, ranking_metrics
from rayrec.models.counts import LikeRates, fit_popularity
from rayrec.models.neighbours import fit_item_knn
from rayrec.models.past import Past
from rayrec.models.regression import fit_ease, fit_ials
from rayrec.schema import ITEM_STATS, ROWS, UNKNOWN, Batch, Scorer, batch_of_rows
from rayrec.statistics import Estimate, Statistic, auc_interval, bootstrap, estimate, interval
from rayrec.storage import provenance

RESULT = Path(__file__).parent / "results" / "protocols.json"
K = 10
SEEDS = tuple(range(10))
TEST_SHARE = 0.25
SAMPLES = 1000
ALIKE = {"half_life": 1e9}
KNN = {**ALIKE, "neighbours": 50, "shrinkage": 0.0}
SETTINGS: dict[str, tuple[Callable[..., Scorer], dict[str, Any]]] = {
    "popularity": (fit_popularity, {}),
    "item_knn_of_context": (fit_item_knn, {**KNN, "nearest_to": "context"}),
    "item_knn": (fit_item_knn, {**KNN, "nearest_to": "candidate"}),
    "ials": (fit_ials, {**ALIKE, "factors": 64, "regularisation": 50.0, "confidence": 4.0}),
    "ease": (fit_ease, {**ALIKE, "regularisation": 500.0}),
}
EXPECTED = {
    "movielens-100k": {"item_knn": (0.4145, 0.4305), "ease": (0.4795, 0.4895)},
    "tallrec-movie": {
        "auc": (0.7255, 0.7265),
        "gauc_by_records": (0.6005, 0.6015),
        "auc_low": (0.636, 0.656),
        "auc_high": (0.784, 0.804),
    },
}
"""Between what a figure must lie: what is known of it, to the third digit, and to 0.01 for the ends of an interval."""
PUBLISHED = {
    "movielens-100k": {"BiVAE": 0.475, "BPR": 0.442, "LightGCN": 0.420, "SAR": 0.383},
    "tallrec-movie": {"TALLRec-7B, 16 shots": 0.672, "64 shots": 0.675, "256 shots": 0.720},
}

Result = dict[str, Any]


def interactions(source: Source) -> pa.Table:
    """All interactions of a source as it tells them, in the order of its file."""
    logs = read_logs(source, DataConfig().allowed_schemes)
    blocks = [
        table.convert(block.rows)
        for table in logs.interactions
        for part in parts_of(table.uris, table.format, 1 << 27)
        for block in read_blocks(part)
    ]
    return pa.concat_tables(blocks)


def codes(column: pa.ChunkedArray) -> np.ndarray:
    """int64 [E]: the place of each string among the distinct ones in order of appearance."""
    return np.asarray(column.combine_chunks().dictionary_encode().indices, np.int64)


def split(user_E: np.ndarray, seed: int) -> np.ndarray:
    """bool [E]: a random TEST_SHARE of each user's ratings, rounded to whole ones."""
    shuffled = np.random.default_rng(seed).permutation(len(user_E))
    order = shuffled[np.argsort(user_E[shuffled], kind="stable")]
    count_U = np.bincount(user_E)
    place_E = np.arange(len(order)) - np.repeat(np.cumsum(count_U) - count_U, count_U)
    test_E = np.zeros(len(user_E), bool)
    test_E[order] = place_E < np.round(TEST_SHARE * count_U)[user_E[order]]
    return test_E


def past_of(user_E: np.ndarray, items_E: np.ndarray, times_E: np.ndarray, num_items: int) -> Past:
    """What a scorer is fitted on: ratings by user and time, none of which carries an opinion."""
    order = np.lexsort((times_E, user_E))
    user_E, items_E, times_E = user_E[order], items_E[order], times_E[order]
    keys, counts = np.unique(np.stack([items_E, times_E // DAY_MS]), axis=1, return_counts=True)
    daily = pa.table({"item": keys[0], "day": keys[1], "count": counts, "likes": np.zeros(len(counts), np.int64)})
    return Past(
        user_E=user_E,
        items_E=items_E,
        times_E=times_E,
        likes_E=np.full(len(user_E), UNKNOWN, np.int8),
        num_users=int(user_E.max()) + 1,
        stats=ItemStats(daily.cast(ITEM_STATS), num_items),
        catalogue=pa.table({"item_id": np.arange(num_items).astype(str)}),
    )


def contexts(user_E: np.ndarray, items_E: np.ndarray, likes_E: np.ndarray, as_of: int) -> Batch:
    """A row of context for each user, as of one moment.

    Args:
        user_E: ascending from 0 without gaps.
        items_E: dense indices.
        likes_E: LIKED, DISLIKED or UNKNOWN.
        as_of: ms.
    """
    lengths_U = np.bincount(user_E)
    users, offsets = len(lengths_U), pa.array(np.concatenate([[0], np.cumsum(lengths_U)]), pa.int32())
    table = pa.table(
        {
            "user_id": np.arange(users).astype(str),
            "as_of": np.full(users, as_of),
            "items": pa.ListArray.from_arrays(offsets, pa.array(items_E)),
            "likes": pa.ListArray.from_arrays(offsets, pa.array(likes_E)),
            "first_target": lengths_U,
            "profile": [""] * users,
            "seen": pa.nulls(users, pa.list_(pa.int32())),
        }
    )
    return batch_of_rows(table.cast(ROWS))


def random_split(user_E: np.ndarray, items_E: np.ndarray, times_E: np.ndarray, seed: int) -> dict[str, Result]:
    """Mean metrics of every system on one split."""
    num_users, num_items = int(user_E.max()) + 1, int(items_E.max()) + 1
    test_E = split(user_E, seed)
    past = past_of(user_E[~test_E], items_E[~test_E], times_E[~test_E], num_items)
    batch = contexts(past.user_E, past.items_E, past.likes_E, int(times_E.max()) + DAY_MS)
    relevant_UN, unseen_UN = np.zeros((num_users, num_items), bool), np.ones((num_users, num_items), bool)
    relevant_UN[user_E[test_E], items_E[test_E]] = True
    unseen_UN[past.user_E, past.items_E] = False
    found = {}
    for name, (fit, setting) in SETTINGS.items():
        metrics = ranking_metrics(fit(past, **setting).score(batch), relevant_UN, unseen_UN, K)
        found[name] = {metric: float(np.nanmean(values_U)) for metric, values_U in metrics.items()}
    return found


def movielens() -> Result:
    """MovieLens-100K, random 75/25 within each user, on every seed."""
    ratings = interactions(MovieLensSource())
    user_E, items_E, times_E = codes(ratings["user_id"]), codes(ratings["item_id"]), ratings["timestamp"].to_numpy()
    by_seed = [random_split(user_E, items_E, times_E, seed) for seed in SEEDS]
    systems = {}
    for name, (_, setting) in SETTINGS.items():
        figures = {metric: spread([found[name][metric] for found in by_seed]) for metric in by_seed[0][name]}
        systems[name] = {"setting": setting, **figures}
    found = {name: systems[name]["ndcg"]["mean"] for name in EXPECTED["movielens-100k"]}
    return {
        "protocol": f"a random {TEST_SHARE:.0%} of each user's ratings to find, the rest to learn from; all ratings "
        f"are positives; ranked is all that the user did not learn from; NDCG@{K} with binary gains",
        "use": "to compare with published figures, and for nothing else: a random split learns from what came later",
        "note": "ItemKNN meets its figure where each candidate keeps its 50 nearest items (item_knn); where each item "
        "of the context keeps its 50 nearest candidates (item_knn_of_context), popular films are near to many. One "
        "split's EASE differs from another's by more than the range of its figure: see sd and by_seed.",
        "seeds": SEEDS,
        "counts": {"users": int(user_E.max()) + 1, "items": int(items_E.max()) + 1, "ratings": len(user_E)},
        "systems": systems,
        "published_ndcg": PUBLISHED["movielens-100k"],
        "expected": verdicts("movielens-100k", found),
    }


def spread(values: list[float]) -> Result:
    """Mean and standard deviation over seeds, and each seed's value."""
    rounded = [round(value, 4) for value in values]
    return {"mean": round(float(np.mean(values)), 4), "sd": round(float(np.std(values, ddof=1)), 4), "by_seed": rounded}


def people(row_E: np.ndarray, item_E: np.ndarray) -> np.ndarray:
    """int64 [U]: whose each record is, where those that follow each other and share half of their films are of one.

    Args:
        row_E: record of each opinion, from 0 without gaps.
        item_E: its film.
    """
    told = sparse.coo_array((np.ones(len(row_E)), (row_E, item_E))).tocsr()
    told.data[:] = 1
    films_U = told.sum(axis=1)
    shared_U = (told[1:] * told[:-1]).sum(axis=1)
    return np.concatenate([[0], np.cumsum(shared_U < np.minimum(films_U[1:], films_U[:-1]) / 2)])


def tallrec(uri: str) -> Result:
    """AUC and GAUC of the share of likes among a record's opinions on TALLRec's test file, without training."""
    told = interactions(TallrecSource(kind="tallrec", uri=uri))
    row_E, item_E = codes(told["user_id"]), codes(told["item_id"])
    like_E = (told["event"].to_numpy(zero_copy_only=False) == "like").astype(np.int8)
    target_E = np.append(np.diff(row_E) != 0, True)
    batch = contexts(row_E[~target_E], item_E[~target_E], like_E[~target_E], DAY_MS)
    nobody = ItemStats(ITEM_STATS.empty_table(), int(item_E.max()) + 1)
    score_U = LikeRates(nobody, 0.5, user_prior=5.0, item_prior=None).like(batch)[row_E[target_E], item_E[target_E]]
    label_U, person_U = like_E[target_E], people(row_E[~target_E], item_E[~target_E])
    persons, seed = int(person_U.max()) + 1, SEEDS[0]
    by_person = auc_interval(label_U, score_U, person_U, SAMPLES, seed)
    aucs_P = group_aucs(label_U, score_U, person_U, persons)
    weighted = weighted_mean(aucs_P, np.bincount(person_U))
    by_records = estimate(bootstrap([weighted], persons, SAMPLES, seed)[0][0])
    found = {"auc": by_person.mean, "auc_low": by_person.low, "auc_high": by_person.high}
    return {
        "protocol": "the share of likes among the ten opinions of a record says whether its target is liked; AUC over "
        f"all records, GAUC its mean within persons; {SAMPLES} bootstrap samples of whole persons (auc_by_record: of "
        "records, as if they were independent)",
        "note": "The GAUC to meet weighs each person by the number of their records (gauc_by_records). The mean over "
        "persons (gauc), which is what rayrec calls GAUC, is lower: the share says less of persons with few records.",
        "use": "to compare with TALLRec's published figures; its records overlap, so they are no independent examples",
        "seeds": [seed],
        "counts": {
            "records": len(label_U),
            "liked": int(label_U.sum()),
            "persons": persons,
            "persons_with_both_answers": int((~np.isnan(aucs_P)).sum()),
        },
        "like_share": {
            "auc": rounded(by_person),
            "auc_by_record": rounded(auc_interval(label_U, score_U, np.arange(len(label_U)), SAMPLES, seed)),
            "gauc": rounded(interval(aucs_P, SAMPLES, seed)),
            "gauc_by_records": rounded(by_records),
        },
        "published_auc": PUBLISHED["tallrec-movie"],
        "expected": verdicts("tallrec-movie", {**found, "gauc_by_records": by_records.mean}),
    }


def weighted_mean(values_P: np.ndarray, weights_P: np.ndarray) -> Statistic:
    """The mean over persons by weights of their own; a person whose value is nan does not count."""
    known_P = np.where(np.isnan(values_P), 0, weights_P).astype(np.float64)
    total_P = known_P * np.nan_to_num(values_P)

    def mean(weights_SP: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.asarray((weights_SP @ total_P) / (weights_SP @ known_P))[:, None]

    return Statistic(np.array([np.count_nonzero(known_P)]), mean)


def rounded(estimate: Estimate) -> dict[str, float]:
    """The figure with its interval, to four digits."""
    return {name: round(value, 4) for name, value in vars(estimate).items()}


def verdicts(name: str, found: dict[str, float]) -> dict[str, Result]:
    """Each expected figure beside what was found."""
    return {
        figure: {"between": between, "found": round(found[figure], 4), "met": between[0] <= found[figure] <= between[1]}
        for figure, between in EXPECTED[name].items()
    }


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tallrec", default="data/tallrec-movie/test.json", help="TALLRec's test file of films")
    uri = parser.parse_args().tallrec
    began = time.perf_counter()
    result: dict[str, Any] = {
        "question": "do our scorers and metrics give published and earlier figures under the same protocol",
        "commit": git("rev-parse", "HEAD"),
        "changed_since_commit": bool(git("status", "--porcelain", "--", ":/rayrec", ":/benchmarks/*.py")),
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            **provenance({})["packages"],
            **{name: version(name) for name in ("implicit", "scipy")},
        },
        "protocols": {"movielens-100k": movielens(), "tallrec-movie": tallrec(uri)},
    }
    result["seconds"] = round(time.perf_counter() - began, 1)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: made["expected"] for name, made in result["protocols"].items()}, indent=1))


if __name__ == "__main__":
    main()
