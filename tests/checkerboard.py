"""Tiny logs with a known taste: even users like even items, odd users odd ones; one item is met by nobody."""

from collections.abc import Callable, Sequence

import pyarrow as pa

from rayrec.item_stats import DAY_MS, ItemStats
from rayrec.models.past import Past, past
from rayrec.schema import CATALOGUE, DISLIKED, HISTORIES, ITEM_STATS, LIKED, ROWS, UNKNOWN, Batch, Scorer, batch_of_rows

ITEMS, USERS = 12, 48
UNMET = ITEMS
AS_OF = 40 * DAY_MS
Build = Callable[[Past], Scorer]


def catalogue() -> pa.Table:
    """ITEMS items and one more; all of one parity share a word."""
    words = ["harbour", "mountain"]
    rows = [
        {"item_id": str(item), "title": f"{words[item % 2]} {item}", "categories": [words[item % 2]], "held_out": ""}
        for item in range(ITEMS + 1)
    ]
    return pa.Table.from_pylist(rows, CATALOGUE)


def logs(after: bool) -> tuple[pa.Table, ItemStats]:
    """Histories and statistics of the checkerboard; with `after`, events from AS_OF on that turn it upside down."""
    users = []
    for user in range(USERS):
        own = [item for item in range(ITEMS) if item % 2 == user % 2 and item // 2 != user // 2 % (ITEMS // 2)]
        turn, side = user // 2 % len(own), user // 2 // len(own) % 2
        met = [(item, LIKED) for item in (own[turn:] + own[:turn])[:: 1 - 2 * side]]
        if user % 4 > 1:
            met.insert(2, ((user + 1) % ITEMS, DISLIKED))
        events = [(item, (20 + place) * DAY_MS + user, like) for place, (item, like) in enumerate(met)]
        if after:
            wrong = [item for item in range(ITEMS + 1) if item % 2 != user % 2]
            events += [(item, AS_OF + place * DAY_MS // 4, LIKED) for place, item in enumerate(wrong)]
        users.append((str(user), events))
    histories = pa.Table.from_pylist(
        [
            {
                "user_id": user,
                "items": [item for item, _, _ in events],
                "times": [time for _, time, _ in events],
                "likes": [like for _, _, like in events],
                "ratings": [5.0 if like == LIKED else 1.0 for _, _, like in events],
            }
            for user, events in users
        ],
        HISTORIES,
    )
    daily: dict[tuple[int, int], list[int]] = {}
    for _, events in users:
        for item, time, like in events:
            count = daily.setdefault((item, time // DAY_MS), [0, 0])
            count[0] += 1
            count[1] += like == LIKED
    table = pa.Table.from_pylist(
        [{"item": item, "day": day, "count": n, "likes": likes} for (item, day), (n, likes) in daily.items()],
        ITEM_STATS,
    )
    return histories, ItemStats(table, ITEMS + 1)


def fitted(build: Build, after: bool = False) -> Scorer:
    """The scorer fitted on what came before AS_OF."""
    histories, stats = logs(after)
    return build(past(histories, stats, catalogue(), AS_OF))


def rows(
    contexts: list[list[tuple[int, int]]], targets: Sequence[tuple[int, int]] = (), moments: Sequence[int] | None = None
) -> Batch:
    """A row for each context; all have the same targets, and the moment AS_OF where no moments are given."""
    table = pa.Table.from_pylist(
        [
            {
                "user_id": f"row {index}",
                "as_of": moments[index] if moments else AS_OF,
                "items": [item for item, _ in [*context, *targets]],
                "likes": [like for _, like in [*context, *targets]],
                "first_target": len(context),
                "profile": "",
                "seen": [item for item, _ in context],
            }
            for index, context in enumerate(contexts)
        ],
        ROWS,
    )
    return batch_of_rows(table)


EVEN, ODD = [(0, LIKED), (2, LIKED), (4, LIKED)], [(1, LIKED), (3, LIKED), (6, DISLIKED), (5, LIKED)]
CONTEXTS = [EVEN, ODD, [], [(3, UNKNOWN)], [(7, DISLIKED)], [(UNMET, LIKED)]]
"""Among them a user of whom nothing is known, one with a dislike alone, one with an item that nobody has met."""
