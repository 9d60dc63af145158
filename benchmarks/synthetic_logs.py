"""Synthetic logs of any size, seeded and written file by file: Zipf items, heavy users, long texts, planted dirt.

Interactions lie in files of half a million rows, roughly in the order of time: each file covers its slice of 400 days,
and two rows in a hundred come late. Users are one for every hundred rows; the heaviest has about one event in a
hundred, the lightest a quarter of the mean. Ids are short strings in no order ("u48213"), as real logs have them. One
row in two hundred is dirty, each in one way, so that the counts by reason do not depend on what is looked at first.
"""

import argparse
import json
import math
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

ROWS_PER_FILE = 500_000
ROWS_PER_GROUP = 250_000
ITEMS_PER_FILE = 25_000
START_MS = 1_700_000_000_000
SPAN_MS = 400 * 86_400_000
LATE_SHARE = 0.02
DIRT = (
    "no user_id",
    "no item_id",
    "no timestamp",
    "timestamp before 1970",
    "timestamp after 2099",
    "rating is NaN",
    "unknown item",
    "exact repeat",
)
DIRT_SHARE = 0.005
USER_EXPONENT = 0.75
VOCABULARY = """
amber anchor autumn bakery basil bicycle blanket boat bottle bridge bronze candle canvas canyon cedar
ceramic chair cherry clay cliff clock cloud coast copper corner cotton crystal curtain desert dinner
dragon drum engine evening falcon feather field fire flute forest fountain galaxy garden ginger glass
gold grain granite guitar hammer harbour hazel helmet honey horizon island ivory jacket jungle kettle
lantern leather lemon library linen lion maple marble meadow midnight mirror monsoon mountain museum
needle night oak ocean olive orchard organ oyster paper pearl pepper piano pillow pine planet plum pocket
poem prairie quartz quilt rain raven ribbon river rocket rose saddle saffron sail salt sand satin shadow
silver skyline snow spice spring stone storm sugar summer table tea thunder tiger timber tower train
travel tulip valley velvet violin walnut water wheel willow window winter wolf wood wool yellow zebra
"""
WORDS = VOCABULARY.split()
CATEGORIES = WORDS[::4]
PLANTED = (
    "write to {word}.{number}@example.com",
    "call +1 212 555 {number:04d}",
    "pay with 4111 1111 1111 1111",
    "IBAN DE89 3704 0044 0532 0130 00",
    "from 192.168.{small}.7",
    "see https://example.com/reset?token={word}{number}",
)


@dataclass(frozen=True)
class Size:
    """What is written.

    Attributes:
        rows: interactions, dirty ones included.
        texts: whether one item in a hundred has a long text with planted personal data, and all have categories.
        seed: of everything.
    """

    rows: int
    texts: bool = True
    seed: int = 0

    @property
    def users(self) -> int:
        """How many there are to draw from."""
        return max(self.rows // 100, 10)

    @property
    def items(self) -> int:
        """Rows of the item table."""
        return max(min(200_000, self.rows // 50), 10)


def write_logs(folder: Path, size: Size) -> dict[str, int]:
    """Writes `interactions/*.parquet`, `items/*.parquet` and, last, `logs.json`; nothing where that says the same.

    Args:
        folder: is made.
        size: how much of what.

    Returns:
        Planted dirt: rows by reason.
    """
    about, done = asdict(size), folder / "logs.json"
    if done.exists() and json.loads(done.read_text())["size"] == about:
        dirt: dict[str, int] = json.loads(done.read_text())["dirt"]
        return dirt
    for name in ("interactions", "items"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for old in (folder / name).glob("*.parquet"):
            old.unlink()
    items = item_table(size)
    for number, start in enumerate(range(0, size.items, ITEMS_PER_FILE)):
        path = folder / "items" / f"part-{number:05d}.parquet"
        parquet.write_table(items.slice(start, ITEMS_PER_FILE), path, compression="zstd")
    names = {"user": names_of("u", size.users), "item": names_of("i", size.items)}
    files = -(-size.rows // ROWS_PER_FILE)
    planted: Counter[str] = Counter()
    before: pa.Table | None = None
    for number in range(files):
        rows = min(ROWS_PER_FILE, size.rows - number * ROWS_PER_FILE)
        rng = np.random.default_rng([size.seed, number])
        clean = clean_rows(rng, rows, (number / files, (number + 1) / files), names)
        table, counts, before = with_dirt(rng, clean, before)
        planted.update(counts)
        path = folder / "interactions" / f"part-{number:05d}.parquet"
        parquet.write_table(table, path, row_group_size=ROWS_PER_GROUP, compression="zstd")
    done.write_text(json.dumps({"size": about, "dirt": dict(planted)}))
    return dict(planted)


def names_of(prefix: str, count: int) -> pa.Array:
    """The ids by rank, so shuffled that an id tells nothing of how often it comes."""
    step = next(number for number in range(int(0.618 * count), count + 2) if math.gcd(number, count) == 1)
    numbers = (np.arange(count, dtype=np.int64) * step + count // 3) % count
    return pc.binary_join_element_wise(prefix, pa.array(numbers).cast(pa.string()), "")


def ranks(rng: np.random.Generator, draws: int, count: int, exponent: float) -> np.ndarray:
    """Draws from a power law: the rank r of `count` comes with a weight of about (r + 1) ** -exponent.

    Args:
        rng: source of randomness.
        draws: how many.
        count: ranks are below it.
        exponent: 1 is Zipf's law; smaller is flatter.
    """
    share = rng.random(draws)
    if exponent == 1:
        values = np.exp(share * math.log(count + 1))
    else:
        power = 1 - exponent
        values = (share * ((count + 1) ** power - 1) + 1) ** (1 / power)
    return np.minimum(values.astype(np.int64) - 1, count - 1)


def clean_rows(rng: np.random.Generator, rows: int, part: tuple[float, float], names: dict[str, pa.Array]) -> pa.Table:
    """Rows without dirt.

    Args:
        rng: source of randomness.
        rows: how many.
        part: where their slice of the whole time begins and ends, between 0 and 1; late rows come from before it.
        names: ids of users and items by rank.
    """
    users = ranks(rng, rows, len(names["user"]), USER_EXPONENT)
    items = ranks(rng, rows, len(names["item"]), 1)
    begin, end = part
    share = begin + (end - begin) * rng.random(rows)
    late = rng.random(rows) < LATE_SHARE
    share[late] = end * rng.random(int(late.sum()))
    ratings = rng.choice(np.arange(1, 6, dtype=np.float32), rows, p=[0.06, 0.11, 0.24, 0.33, 0.26])
    columns = {
        "user_id": names["user"].take(pa.array(users)),
        "item_id": names["item"].take(pa.array(items)),
        "timestamp": pa.array(START_MS + (share * SPAN_MS).astype(np.int64)),
        "rating": pa.array(ratings),
    }
    return pa.table(columns)


def with_dirt(
    rng: np.random.Generator, clean: pa.Table, before: pa.Table | None
) -> tuple[pa.Table, Counter[str], pa.Table]:
    """Spoils one row in two hundred, each in one way.

    Args:
        rng: source of randomness.
        clean: rows without dirt.
        before: rows of an earlier file that were left as they are; repeats are of these and of the file's own rows.

    Returns:
        The rows, how many were spoiled in which way, and some that were left as they are.
    """
    rows = len(clean)
    spoiled = rng.permutation(rows)[: round(rows * DIRT_SHARE)]
    kinds = np.arange(len(spoiled)) % len(DIRT)
    at = {name: spoiled[kinds == number] for number, name in enumerate(DIRT)}
    columns = {name: clean[name].combine_chunks() for name in clean.column_names}

    for name, column in (("no user_id", "user_id"), ("no item_id", "item_id"), ("no timestamp", "timestamp")):
        columns[column] = pc.if_else(_mask(rows, at[name]), None, columns[column])
    columns["item_id"] = pc.if_else(_mask(rows, at["unknown item"]), "gone", columns["item_id"])
    for name, value in (("timestamp before 1970", -86_400_000), ("timestamp after 2099", 5_000_000_000_000)):
        columns["timestamp"] = pc.if_else(_mask(rows, at[name]), value, columns["timestamp"])
    columns["rating"] = pc.if_else(_mask(rows, at["rating is NaN"]), np.float32("nan"), columns["rating"])

    whole = clean.take(pa.array(np.setdiff1d(np.arange(min(rows, 10_000)), spoiled)))
    repeats, half = at["exact repeat"], len(at["exact repeat"]) // 2
    own = whole.slice(0, len(repeats) if before is None else half)
    twice = own if before is None else pa.concat_tables([own, before.slice(5_000, len(repeats) - half)])
    keep = np.setdiff1d(np.arange(rows), repeats)
    table = pa.concat_tables([pa.table(columns).take(pa.array(keep)), twice])
    counts = Counter({name: len(places) for name, places in at.items()})
    assert len(twice) == len(repeats)
    return table, counts, whole


def _mask(rows: int, places: np.ndarray) -> pa.Array:
    mask = np.zeros(rows, bool)
    mask[places] = True
    return pa.array(mask)


def item_table(size: Size) -> pa.Table:
    """Items by number: id and title; with texts also categories and, for one in a hundred, a long text."""
    ids = [f"i{number}" for number in range(size.items)]
    if not size.texts:
        return pa.table({"item_id": ids, "title": ids})
    rng = np.random.default_rng([size.seed, 1 << 32])
    words = np.array(WORDS)[rng.integers(len(WORDS), size=(size.items, 4))].tolist()
    chosen = np.array(CATEGORIES)[rng.integers(len(CATEGORIES), size=(size.items, 2))].tolist()
    texts: list[str | None] = [None] * size.items
    for number in range(0, size.items, 100):
        texts[number] = _long_text(rng)
    columns = {
        "item_id": ids,
        "title": [" ".join(four).capitalize() for four in words],
        "categories": [sorted(set(two)) for two in chosen],
        "text": pa.array(texts, pa.string()),
    }
    return pa.table(columns)


def _long_text(rng: np.random.Generator) -> str:
    words = np.array(WORDS)[rng.integers(len(WORDS), size=int(rng.integers(200, 600)))].tolist()
    number, small, word = int(rng.integers(100, 10_000)), int(rng.integers(256)), words[0]
    for place, pattern in enumerate(PLANTED):
        words.insert(20 * (place + 1), pattern.format(word=word, number=number, small=small))
    return " ".join(words)


def main() -> None:
    """Writes logs of one size."""
    parser = argparse.ArgumentParser(description=write_logs.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--no-texts", action="store_true")
    options = parser.parse_args()
    print(json.dumps(write_logs(options.folder, Size(options.rows, texts=not options.no_texts))))


if __name__ == "__main__":
    main()
