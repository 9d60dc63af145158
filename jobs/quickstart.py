"""The whole flow on MovieLens-100K, top to bottom: logs to a served recommender, on this machine, offline.

Run it again and every published stage is reused. Arguments are config overrides: `python jobs/quickstart.py seed=1`.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rayrec import stages, storage
from rayrec.config import load_config
from rayrec.data.dataset import Dataset
from rayrec.data.files import parts_of, read_blocks
from rayrec.data.sources.listing import read_logs
from rayrec.data.sources.logs import LogTable
from rayrec.models.ranker import load_ranker
from rayrec.schema import LIKED, batch_of_rows
from rayrec.serve import app, client
from rayrec.stages import RunConfig

CONFIG = Path(__file__).parent / "configs" / "movielens-100k.yaml"
SENTENCE = "I love animated films for the whole family, with songs"
NEW_FILM = {"title": "The Matrix (1999)", "categories": ["Action", "Sci-Fi", "Thriller"]}
SPACE_OPERAS = ["50", "172", "181"]  # Star Wars, The Empire Strikes Back, Return of the Jedi
KNOWN_FILMS = ["183", "222", "143", "588"]  # Alien, Star Trek: First Contact, The Sound of Music, Beauty and the Beast
TOLERANCE = 1e-4
PART_BYTES = 16 << 20


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Prints dictionaries of the same keys as a table."""
    cells = [list(rows[0])] + [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    print(f"\n{title}")
    for line in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def scored(items: list[dict[str, Any]], **columns: list[str]) -> list[dict[str, Any]]:
    """The columns of an answer that a reader wants, and further ones."""
    shown = [{"title": i["title"], "score": i["score"], "P(like)": i["like_probability"]} for i in items]
    return [{**row, **{name: values[n] for name, values in columns.items()}} for n, row in enumerate(shown)]


def read_rows(tables: Sequence[LogTable], columns: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of some tables of the logs as the source gives them: not cleaned, not grouped."""
    for table in tables:
        for part in parts_of(table.uris, table.format, PART_BYTES):
            for block in read_blocks(part, PART_BYTES):
                yield from table.convert(block.rows).select(columns).to_pylist()


def raw_events(config: RunConfig, data: Dataset) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Every user's events before the test cut-off as the log has them, and what the log says of each user.

    Held-out films play the part of films that are not in the shop yet, so they are left out of histories.
    """
    logs = read_logs(config.data.source, config.data.allowed_schemes)
    held_out = {row["item_id"] for row in data.catalogue().to_pylist() if row["held_out"]}
    histories: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(logs.interactions, ["user_id", "item_id", "timestamp", "rating"]):
        user = row.pop("user_id")
        if row["timestamp"] < data.cutoffs.test and row["item_id"] not in held_out:
            histories.setdefault(user, []).append(row)
    return histories, {user["user_id"]: user["text"] or "" for user in read_rows(logs.users, ["user_id", "text"])}


def parity(config: RunConfig, url: str, rows: pa.Table, request: dict[str, dict[str, Any]]) -> bool:
    """Whether the endpoint answers raw events with the scores that evaluation gave the prepared test rows."""
    data = Dataset(config.dataset)
    item_ids = data.catalogue()["item_id"].to_pylist()
    with tempfile.TemporaryDirectory() as folder:
        local = storage.download_directory(storage.join(config.weights, config.export_stage), folder)
        scores_UN, likes_UN = load_ranker(local, data.stats()).score_and_like(batch_of_rows(rows))
    worst = 0.0
    for row, user in enumerate(rows["user_id"].to_pylist()):
        wanted = rows["items"][row].as_py()[rows["first_target"][row].as_py() :][: config.serve.max_candidates]
        candidates = [{"item_id": item_ids[item]} for item in wanted]
        answers = client.rank(url, candidates=candidates, as_of=data.cutoffs.test, **request[user])["items"]
        for answer in answers:
            item = wanted[answer["candidate"]]
            like_probability = 1 / (1 + np.exp(-likes_UN[row, item]))
            worst = max(worst, float(abs(answer["score"] - scores_UN[row, item])))
            worst = max(worst, float(abs(answer["like_probability"] - like_probability)))
    print(f"\nServed against evaluated, {len(rows)} test users from raw events: largest difference {worst:.1e}")
    return worst <= TOLERANCE


def ask(config: RunConfig, url: str) -> bool:
    """Three users over HTTP, then the served scores against the evaluated ones; whether those agree."""
    data = Dataset(config.dataset)
    catalogue, rows = data.catalogue(), data.rows("test")
    titles = dict(zip(catalogue["item_id"].to_pylist(), catalogue["title"].to_pylist(), strict=True))
    item_ids = catalogue["item_id"].to_pylist()
    histories, texts = raw_events(config, data)
    users = rows["user_id"].to_pylist()
    request = {user: {"history": histories.get(user, []), "profile": texts[user]} for user in users}

    chosen = next(row for row, user in enumerate(users) if len(histories.get(user, [])) >= 20)
    user, past = users[chosen], sorted(request[users[chosen]]["history"], key=lambda event: event["timestamp"])
    later = {
        item_ids[item]: "liked" if like == LIKED else "not liked"
        for item, like in zip(rows["items"][chosen].as_py(), rows["likes"][chosen].as_py(), strict=True)
    }
    answer = client.recommend(url, k=10, as_of=data.cutoffs.test, **request[user])["items"]
    show(
        f"User {user} ({texts[user]}), last films",
        [{"title": titles[e["item_id"]], "rating": int(e["rating"])} for e in past[-5:]],
    )
    show("... is recommended", scored(answer, later=[later.get(item["item_id"], "") for item in answer]))

    answer = client.recommend(url, profile=SENTENCE, k=8)["items"]
    show(f'A user of whom only a sentence is known: "{SENTENCE}"', scored(answer))

    candidates = [NEW_FILM, *({"item_id": item_id} for item_id in KNOWN_FILMS)]
    answer = client.rank(url, history=SPACE_OPERAS, candidates=candidates)["items"]
    origin = ["new, by its text" if item["item_id"] is None else "catalogue" for item in answer]
    show(
        "A user who saw the three Star Wars films ranks a film the bundle has never seen", scored(answer, origin=origin)
    )
    return parity(config, url, rows, request)


def main() -> None:
    """Prepare, train, evaluate, export, serve, ask, stop."""
    began = time.monotonic()
    config = load_config(RunConfig, str(CONFIG), ["serve.port=0", *sys.argv[1:]])
    with stages.ray_session(object_store_memory=500_000_000):
        for stage in (stages.prepare, stages.train):
            print(json.dumps(stage(config)))
        figures = stages.evaluate(config)
        print(json.dumps(stages.export(config)))
        url = app.deploy(config.bundle, config.serve)
        try:
            equal = ask(config, url)
        finally:
            app.stop()
    auc = figures["auc"]
    summary = {
        **{f"auc_{system}": auc[system] for system in ("zero_shot", "frozen", "tuned")},
        **{name: figures[name] for name in ("ndcg10", "cold_ndcg10")},
        "served_equals_evaluated": equal,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(summary))
    if not equal:
        sys.exit("the endpoint does not answer with the scores that were evaluated")


if __name__ == "__main__":
    main()
