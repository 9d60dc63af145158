"""Logs with planted tastes: the topic that an item's text speaks of decides who likes it.

An item's text uses three of its topic's ten phrases, so that two items of a topic are related by meaning and mostly by
words too; tests.meanings has items that share no word. Who likes a topic is independent of everything else, and the
format is noise.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from rayrec.data.config import DataConfig, PrivacyConfig
from rayrec.data.dataset import Dataset
from rayrec.data.job import prepare
from rayrec.data.plan import Plan, plan_of
from rayrec.data.sources.columns import read_columns
from rayrec.data.sources.config import Columns, ColumnsSource
from rayrec.data.split import HOUR_MS, catalogue, held_out_codes, split_cut_offs
from rayrec.data.work import Run, in_process
from rayrec.schema import ITEMS, USERS
from rayrec.terms import document_frequencies, telling_terms, terms_of

PLAIN = PrivacyConfig(user_ids="plain", redact=False)

TOPICS: dict[str, tuple[str, ...]] = {
    "space": (
        "a crew of astronauts",
        "the first landing on Mars",
        "a rocket launch at dawn",
        "life aboard an orbital station",
        "a telescope that hears distant galaxies",
        "the far side of the moon",
        "a lost satellite",
        "a comet on its way to Earth",
        "zero gravity",
        "an interstellar voyage",
    ),
    "cooking": (
        "a baker and her sourdough",
        "recipes from a village kitchen",
        "a chef who opens a restaurant",
        "pasta made by hand",
        "the secret of a good soup",
        "spices bought at the market",
        "roasting vegetables over fire",
        "desserts with dark chocolate",
        "a family dinner",
        "knives, pans and patience",
    ),
    "football": (
        "a goalkeeper in his last season",
        "the penalty that decided the cup",
        "a young striker from the suburbs",
        "the coach's half-time speech",
        "supporters who sing in the stadium",
        "a club close to relegation",
        "a midfielder's long pass",
        "the referee and the offside rule",
        "training on a muddy pitch",
        "a derby between two towns",
    ),
    "crime": (
        "a detective without a partner",
        "a murder in a locked room",
        "fingerprints on the window",
        "the theft of a painting",
        "an inspector who cannot sleep",
        "a witness who lies in court",
        "the trail of a kidnapper",
        "a prison escape",
        "blackmail among lawyers",
        "the confession of a burglar",
    ),
    "music": (
        "a jazz trio on tour",
        "a violinist before her concert",
        "the song that topped the charts",
        "a piano in an empty bar",
        "learning to play the guitar",
        "an orchestra and its conductor",
        "the drummer who left the band",
        "a choir in a small church",
        "vinyl records and old melodies",
        "an opera singer's farewell",
    ),
    "garden": (
        "planting tulips in autumn",
        "a greenhouse full of tomatoes",
        "how to prune old roses",
        "bees among the lavender",
        "compost and rich soil",
        "a hedge that hides an orchard",
        "seedlings on the windowsill",
        "weeds, shovels and watering cans",
        "a pond with water lilies",
        "the first strawberries of June",
    ),
}
FORMATS = ("novel", "film", "podcast", "magazine")
OPENINGS = ("All about", "A quiet tale of", "Notes on", "An evening with", "The year of", "Seven chapters on")

START_S = 1_704_067_200
DAYS = 60
STAY_DAYS = 20


@dataclass(frozen=True)
class SyntheticLogs:
    """The three tables of the columns source, and what was planted.

    Attributes:
        interactions: user_id, item_id, timestamp (s), rating.
        items: item_id, title, text, format.
        users: user_id, about.
        item_topics: by item, in the order of `items`.
        tastes: topics each user likes, in the order of `users`.
    """

    interactions: pa.Table
    items: pa.Table
    users: pa.Table
    item_topics: list[str]
    tastes: list[tuple[str, ...]]


def generate(
    num_users: int = 200, num_items: int = 150, num_interactions: int = 6000, seed: int = 0, noise: float = 0.1
) -> SyntheticLogs:
    """Draws logs over DAYS days; users arrive all along, stay for STAY_DAYS at most, and nobody meets an item twice.

    Args:
        num_users: users.
        num_items: items, shared evenly among the topics.
        num_interactions: about how many; a user has the same number as any other, at most every item.
        seed: of everything.
        noise: share of ratings that contradict the taste.
    """
    rng = np.random.default_rng(seed)
    names = list(TOPICS)
    topic_of = rng.permutation(np.arange(num_items) % len(names))
    phrases = [rng.choice(TOPICS[names[topic]], 3, replace=False) for topic in topic_of]
    ids = [f"item-{number:04d}" for number in rng.permutation(num_items)]
    items = pa.table(
        {
            "item_id": ids,
            "title": [f"{rng.choice(OPENINGS)} {first}" for first, _, _ in phrases],
            "text": [f"It begins with {second} and ends with {third}." for _, second, third in phrases],
            "format": [str(rng.choice(FORMATS)) for _ in ids],
        }
    )

    likes = np.zeros((num_users, len(names)), bool)
    for user in range(num_users):
        likes[user, rng.choice(len(names), rng.integers(1, 3), replace=False)] = True
    tastes = [tuple(names[topic] for topic in np.flatnonzero(row)) for row in likes]
    user_ids = [f"user-{number:05d}" for number in range(num_users)]
    abouts = [f"interested in {' and '.join(taste)}" if rng.random() < 0.5 else None for taste in tastes]

    each = min(num_items, max(1, round(num_interactions / num_users)))
    liked = likes[:, topic_of]
    popularity = rng.gumbel(scale=0.3, size=num_items)
    draw = np.log(np.where(liked, 1.0, 0.12)) + popularity + rng.gumbel(size=liked.shape)
    chosen = np.argsort(-draw, axis=1)[:, :each]
    chosen = rng.permuted(chosen, axis=1)
    kind = np.take_along_axis(liked, chosen, axis=1) ^ (rng.random(chosen.shape) < noise)
    ratings = np.where(kind, rng.integers(4, 6, chosen.shape), rng.integers(1, 4, chosen.shape))
    arrivals = rng.uniform(0, DAYS - 2, (num_users, 1))
    stays = np.minimum(DAYS - arrivals, STAY_DAYS)
    times = START_S + 86_400 * np.sort(arrivals + rng.uniform(0, 1, chosen.shape) * stays, axis=1)
    interactions = pa.table(
        {
            "user_id": np.repeat(user_ids, each).tolist(),
            "item_id": [ids[item] for item in chosen.ravel()],
            "timestamp": times.ravel().astype(np.int64),
            "rating": ratings.ravel().astype(np.float32),
        }
    )
    return SyntheticLogs(
        interactions=interactions,
        items=items,
        users=pa.table({"user_id": user_ids, "about": pa.array(abouts, pa.string())}),
        item_topics=[names[topic] for topic in topic_of],
        tastes=tastes,
    )


def write(logs: SyntheticLogs, folder: Path) -> ColumnsSource:
    """Writes interactions, items and users as Parquet below a folder and returns the source that reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("interactions", "items", "users"):
        parquet.write_table(getattr(logs, name), folder / f"{name}.parquet")
    return ColumnsSource(
        kind="columns",
        interactions=str(folder / "interactions.parquet"),
        items=str(folder / "items.parquet"),
        users=str(folder / "users.parquet"),
        columns=Columns(
            rating="rating",
            text="text",
            categories="format",
            user_text="about",
            review="review" if "review" in logs.interactions.column_names else None,
        ),
    )


def judged(logs: SyntheticLogs, config: DataConfig, seed: int = 0) -> tuple[pa.Table, pa.Table, Plan]:
    """What build() takes, without files: events, users and the plan."""
    items = pa.table(
        {
            "item_id": logs.items["item_id"],
            "title": logs.items["title"],
            "text": logs.items["text"],
            "categories": pa.array([[name] for name in logs.items["format"].to_pylist()]),
            "attributes": pa.nulls(len(logs.items), pa.list_(pa.string())),
        }
    ).cast(ITEMS)
    words = telling_terms(items, document_frequencies(items), len(items))
    for name, column in zip(("terms", "term_weights"), words, strict=True):
        items = items.append_column(name, column)
    items = catalogue(items, config.split, seed)
    events = pa.table(
        {
            "user_id": logs.interactions["user_id"],
            "item": pc.index_in(logs.interactions["item_id"], value_set=items["item_id"].combine_chunks()),
            "timestamp": pc.multiply(logs.interactions["timestamp"], 1000),
            "rating": logs.interactions["rating"],
            "event": pa.nulls(len(logs.interactions), pa.string()),
            "review": pa.nulls(len(logs.interactions), pa.string()),
        }
    )
    hours, counts = np.unique(events["timestamp"].to_numpy() // HOUR_MS, return_counts=True)
    cutoffs = split_cut_offs(config, False, hours, counts)
    held_out_N = held_out_codes(items["held_out"].combine_chunks())
    plan = plan_of(config, seed, False, cutoffs, held_out_N, terms_of(items))
    return events, logs.users.rename_columns({"about": "text"}).cast(USERS), plan


def published(
    logs: SyntheticLogs, folder: Path, config: DataConfig | None = None, seed: int = 0, run: Run = in_process
) -> Dataset:
    """The dataset that `prepare` would publish of these logs, made in this process without Ray.

    Where the config says nothing of privacy, user ids stay as they are and texts are not searched.
    """
    config = config or DataConfig()
    if config.privacy == PrivacyConfig():
        config = config.model_copy(update={"privacy": PLAIN})
    with tempfile.TemporaryDirectory() as logs_folder:
        found = read_columns(write(logs, Path(logs_folder)))
        prepare(config, str(folder), seed=seed, provenance={"code": "test"}, run=run, logs=found)
    return Dataset(str(folder))
