"""The job of data.py in DuckDB and in Polars; prints one line of JSON.

Theirs is the easier job: no texts, no terms, no profiles, no quarantine (bad rows are counted, not kept), no scratch to
go on from after a kill, no equal bytes for equal input; and chunks of training rows begin at fixed positions, where
rayrec moves a border that equal times straddle. The cut-offs follow rayrec's rule, on hourly counts of their own.

    python benchmarks/data_peers.py duckdb|polars LOGS OUT
"""

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

THREADS = 2
HISTORY_LENGTH, MAX_HISTORY, MAX_EVENTS, LIKE_THRESHOLD = 50, 1000, 10_000, 4
CONTEXT = HISTORY_LENGTH // 2
CHUNK = HISTORY_LENGTH + 1
STRIDE = CHUNK - CONTEXT
VALID_FRACTION = TEST_FRACTION = 0.1
LATEST_MS, HOUR_MS, DAY_MS = 4_102_444_800_000, 3_600_000, 86_400_000
REASONS = {
    "no user_id": "user_id is null or trim(user_id) = ''",
    "no item_id": "item_id is null or trim(item_id) = ''",
    "no timestamp": "timestamp is null",
    "timestamp before 1970": "timestamp < 0",
    "timestamp after 2099": f"timestamp >= {LATEST_MS}",
    "rating is NaN": "not isfinite(rating)",
    "unknown item": "item is null",
}


class Clock:
    """Seconds by stage; a stage ends where the next begins."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Ends a stage."""
        now = time.perf_counter()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self.last, 3)
        self.last = now


def duckdb_job(logs: Path, out: Path) -> dict[str, Any]:
    """The job in SQL, tables in memory.

    Args:
        logs: from synthetic_logs.py.
        out: an empty folder.
    """
    import duckdb

    from rayrec.data.split import cut_offs

    clock = Clock()
    db = duckdb.connect()
    db.execute(f"set threads = {THREADS}; set preserve_insertion_order = false; set temp_directory = '{out / 'spill'}'")

    def copy(query: str, path: str) -> None:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        db.execute(f"copy ({query}) to '{out / path}' (format parquet, compression zstd)")

    cases = " ".join(f"when {condition} then '{reason}'" for reason, condition in REASONS.items())
    db.execute(f"""
        create table items as
        select item_id as id, (row_number() over () - 1)::int as item from '{logs}/items/*.parquet';
        create table judged as
        select user_id, item, timestamp, rating, case {cases} end as reason
        from '{logs}/interactions/*.parquet' left join items on item_id = id""")
    reasons = dict(
        db.execute("select reason, count(*) from judged where reason is not null group by reason").fetchall()
    )
    clock.lap("read and judge")
    hours = db.execute(
        f"select timestamp // {HOUR_MS}, count(*) from judged where reason is null group by 1"
    ).fetchall()
    hour, count = np.array(hours, np.int64).T
    cut = cut_offs(hour, count, VALID_FRACTION, TEST_FRACTION)
    clock.lap("cut-offs")
    db.execute("""
        create table events as
        select user_id, item, timestamp, min(rating) as rating from judged where reason is null group by all;
        drop table judged""")
    clock.lap("repeats")
    db.execute(f"""
        create table ordered as
        select * exclude (place, total), place - greatest(total - {MAX_EVENTS}, 0) as place,
            (rating >= {LIKE_THRESHOLD})::tinyint as liked
        from (
            select *, row_number() over (partition by user_id order by timestamp, item) - 1 as place,
                count(*) over (partition by user_id) as total
            from events)
        where place >= total - {MAX_EVENTS};
        drop table events;
        create table users as
        select user_id, count(*) as total, count(*) filter (timestamp < {cut.valid}) as before_valid,
            count(*) filter (timestamp < {cut.test}) as before_test
        from ordered group by user_id""")
    clock.lap("order by user and time")
    duckdb_histories_and_chunks(copy)
    clock.lap("write histories and training rows")
    db.execute("""
        create table firsts as
        select user_id, item, min(timestamp) as timestamp, arg_min(liked, timestamp) as liked
        from ordered group by all""")
    for split, begin, until in (("valid", cut.valid, cut.test), ("test", cut.test, cut.end)):
        copy(duckdb_evaluation(split, begin, until), f"rows/{split}/part-0.parquet")
    clock.lap("write evaluation rows")
    copy(
        f"""select item, timestamp // {DAY_MS} as day, count(*) as count, sum(liked)::int as likes
        from ordered group by all""",
        "item_stats/part-0.parquet",
    )
    clock.lap("write item counts")
    return {"stages": clock.seconds, "reasons": reasons}


def duckdb_histories_and_chunks(copy: Any) -> None:
    """Writes each user's last events, and the overlapping chunks of what lies before the validation cut-off."""
    copy(
        f"""
        select user_id, [x.item for x in e] as items, [x.timestamp for x in e] as times,
            [x.liked for x in e] as likes, [x.rating for x in e] as ratings
        from (
            select user_id, list_sort(list(struct_pack(place, item, timestamp, liked, rating))) as e
            from ordered join users using (user_id) where place >= total - {MAX_HISTORY} group by user_id)""",
        "histories/part-0.parquet",
    )
    chunks = f"1 + (greatest(before_valid - {CHUNK}, 0) + {STRIDE - 1}) // {STRIDE}"
    copy(
        f"""
        with trained as (
            select user_id, item, timestamp, liked, place, place // {STRIDE} as chunk, {chunks} as chunks
            from ordered join users using (user_id) where place < before_valid),
        placed as (
            select * from trained where chunk < chunks
            union all
            select * replace (chunk - 1 as chunk) from trained where place >= {STRIDE} and place % {STRIDE} < {CONTEXT})
        select user_id, min(timestamp) filter (place >= {STRIDE} * chunk + if(chunk > 0, {CONTEXT}, 0)) as as_of,
            list(item order by place) as items, list(liked order by place) as likes,
            if(chunk > 0, {CONTEXT}, 0) as first_target
        from placed group by user_id, chunk""",
        "rows/train/part-0.parquet",
    )


def duckdb_evaluation(split: str, begin: int, until: int) -> str:
    """The query of one evaluation split: context and what was met before and within a window."""
    return f"""
        with met as (
            select user_id, list(item order by timestamp, item) filter (timestamp >= {begin}) as targets,
                list(liked order by timestamp, item) filter (timestamp >= {begin}) as target_likes,
                list(item) filter (timestamp < {begin}) as seen
            from firsts where timestamp < {until} group by user_id having count(*) filter (timestamp >= {begin}) > 0),
        context as (
            select user_id, list(item order by place) as items, list(liked order by place) as likes
            from ordered join users using (user_id) semi join met using (user_id)
            where place < before_{split} and place >= before_{split} - {HISTORY_LENGTH} group by user_id)
        select user_id, {begin} as as_of, list_concat(items, targets) as items,
            list_concat(likes, target_likes) as likes, coalesce(len(items), 0) as first_target,
            coalesce(seen, []) as seen
        from met left join context using (user_id)"""


def polars_job(logs: Path, out: Path) -> dict[str, Any]:
    """The job in Polars: streaming where whole columns are hashed, in memory where order matters.

    Args:
        logs: from synthetic_logs.py.
        out: an empty folder.
    """
    os.environ["POLARS_MAX_THREADS"] = str(THREADS)
    import polars as pl

    from rayrec.data.split import cut_offs

    clock = Clock()
    items = pl.scan_parquet(logs / "items" / "*.parquet").select("item_id").with_row_index("item")
    raw = pl.scan_parquet(logs / "interactions" / "*.parquet")
    cases = ["case", *(f"when {condition} then '{reason}'" for reason, condition in REASONS.items()), "end"]
    judged = (
        raw.join(items.with_columns(pl.col("item").cast(pl.Int32)), on="item_id", how="left")
        .with_columns(reason=pl.sql_expr(" ".join(cases).replace("isfinite(rating)", f"abs(rating) <= {3.4e38}")))
        .drop("item_id")
        .collect(engine="streaming")
    )
    reasons = dict(judged.group_by("reason").len().drop_nulls().iter_rows())
    good = judged.lazy().filter(pl.col("reason").is_null())
    clock.lap("read and judge")
    hours = good.group_by(pl.col("timestamp") // HOUR_MS).len().collect(engine="streaming")
    cut = cut_offs(hours["timestamp"].to_numpy(), hours["len"].to_numpy(), VALID_FRACTION, TEST_FRACTION)
    clock.lap("cut-offs")
    events = good.group_by("user_id", "item", "timestamp").agg(pl.col("rating").min()).collect(engine="streaming")
    del judged, good
    clock.lap("repeats")
    users = events.select("user_id").unique().with_row_index("user")
    ordered = (
        events.lazy()
        .join(users.lazy(), on="user_id")
        .drop("user_id")
        .with_columns(liked=(pl.col("rating") >= LIKE_THRESHOLD).cast(pl.Int8))
        .collect(engine="streaming")
    )
    del events
    ordered = ordered.sort("user", "timestamp", "item").set_sorted("user")
    ordered = ordered.filter(pl.len().over("user") - pl.int_range(pl.len()).over("user") <= MAX_EVENTS)
    ordered = ordered.with_columns(place=pl.int_range(pl.len()).over("user")).set_sorted("user")
    clock.lap("order by user and time")
    named = polars_writer(users, out)
    polars_histories_and_chunks(ordered, cut.valid, named)
    clock.lap("write histories and training rows")
    first = [pl.col("timestamp").min(), pl.col("liked").min_by("timestamp")]
    firsts = ordered.lazy().group_by("user", "item").agg(first).collect(engine="streaming")
    for split, begin, until in (("valid", cut.valid, cut.test), ("test", cut.test, cut.end)):
        named(polars_evaluation(ordered, firsts, begin, until), f"rows/{split}")
    clock.lap("write evaluation rows")
    counts = ordered.lazy().group_by("item", day=pl.col("timestamp") // DAY_MS)
    (out / "item_stats").mkdir()
    counts.agg(count=pl.len(), likes=pl.col("liked").cast(pl.Int32).sum()).collect(engine="streaming").write_parquet(
        out / "item_stats" / "part-0.parquet"
    )
    clock.lap("write item counts")
    return {"stages": clock.seconds, "reasons": reasons}


def polars_writer(users: Any, out: Path) -> Any:
    """Writes a frame by user number with the users' ids to a folder."""

    def write(frame: Any, folder: str) -> None:
        (out / folder).mkdir(parents=True)
        frame.join(users, on="user", how="left").drop("user").write_parquet(out / folder / "part-0.parquet")

    return write


def polars_histories_and_chunks(ordered: Any, valid: int, named: Any) -> None:
    """Writes each user's last events, and the overlapping chunks of what lies before the validation cut-off."""
    import polars as pl

    left = pl.len().over("user") - pl.col("place")
    recent = ordered.filter(left <= MAX_HISTORY).group_by("user", maintain_order=True)
    named(recent.agg(items="item", times="timestamp", likes="liked", ratings="rating"), "histories")
    before = ordered.filter(pl.col("timestamp") < valid).with_columns(total=pl.len().over("user"))
    first_target = pl.when(pl.col("place") > 0).then(CONTEXT).otherwise(0)
    chunks = (
        before.set_sorted("user")
        .group_by_dynamic("place", every=f"{STRIDE}i", period=f"{CHUNK}i", group_by="user")
        .agg(items="item", likes="liked", times=pl.col("timestamp").head(STRIDE), total=pl.col("total").first())
        .filter((pl.col("place") == 0) | (pl.col("total") > pl.col("place") + CONTEXT))
        .with_columns(first_target=first_target)
        .with_columns(as_of=pl.col("times").list.get(pl.col("first_target")))
    )
    named(chunks.drop("times", "total", "place"), "rows/train")


def polars_evaluation(ordered: Any, firsts: Any, begin: int, until: int) -> Any:
    """One evaluation split: context and what was met before and within a window."""
    import polars as pl

    time = pl.col("timestamp")
    window = firsts.filter((time >= begin) & (time < until)).sort("user", "timestamp", "item")
    new = window.group_by("user", maintain_order=True).agg(targets="item", target_likes="liked")
    past = ordered.filter(time < begin).join(new, on="user", how="semi", maintain_order="left")
    past = past.group_by("user", maintain_order=True).agg(
        items=pl.col("item").tail(HISTORY_LENGTH), likes=pl.col("liked").tail(HISTORY_LENGTH)
    )
    seen = firsts.filter(time < begin).join(new, on="user", how="semi").group_by("user").agg(seen="item")
    empty = [pl.col(name).fill_null([]) for name in ("items", "likes", "seen")]
    return (
        new.join(past, on="user", how="left")
        .join(seen, on="user", how="left")
        .with_columns(empty)
        .with_columns(
            items=pl.concat_list("items", "targets"),
            likes=pl.concat_list("likes", "target_likes"),
            first_target=pl.col("items").list.len(),
            as_of=begin,
        )
        .drop("targets", "target_likes")
    )


if __name__ == "__main__":
    job, logs, out = sys.argv[1:]
    told = {"duckdb": duckdb_job, "polars": polars_job}[job](Path(logs), Path(out))
    print(json.dumps({**told, "versions": {job: version(job)}}))
