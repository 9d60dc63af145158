"""Tiny logs, written out event by event, and plans for them."""

from typing import Any

import numpy as np
import pyarrow as pa

from rayrec.data.config import CleanConfig, DataConfig, SplitConfig
from rayrec.data.plan import Plan, plan_of
from rayrec.data.split import KEPT, CutOffs, split_cut_offs
from rayrec.schema import USERS
from rayrec.terms import terms_of

NUM_ITEMS = 30
CATALOGUE = pa.table({"categories": pa.array([[f"genre {item % 4}"] for item in range(NUM_ITEMS)])})
NOBODY = USERS.empty_table()

Event = tuple[str, int, int, float | None]


def log(*events: Event, names: list[str | None] | None = None) -> pa.Table:
    """The table of these events: user, item, time, rating; names aligned with them."""
    users, items, times, ratings = zip(*events, strict=True) if events else ((), (), (), ())
    return pa.table(
        {
            "user_id": pa.array(users, pa.string()),
            "item": pa.array(items, pa.int32()),
            "timestamp": pa.array(times, pa.int64()),
            "rating": pa.array(ratings, pa.float32()),
            "event": pa.array(names or [None] * len(users), pa.string()),
        }
    )


def tiny_plan(
    cutoffs: CutOffs | None = None, held_out: dict[int, int] | None = None, order_only: bool = False, **settings: Any
) -> Plan:
    """A plan for NUM_ITEMS items.

    Args:
        cutoffs: None for those of the split where times end on day 0.
        held_out: code of items; of no others is any held out.
        order_only: of the plan.
        **settings: fields of DataConfig, of its clean or of its split.
    """
    clean, split = (
        {name: settings.pop(name) for name in set(settings) & set(kind.model_fields)}
        for kind in (CleanConfig, SplitConfig)
    )
    config = DataConfig(clean=CleanConfig(**clean), split=SplitConfig(**split), **settings)
    held_out_N = np.full(NUM_ITEMS, KEPT, np.int8)
    for item, code in (held_out or {}).items():
        held_out_N[item] = code
    cutoffs = cutoffs or split_cut_offs(config, order_only, np.zeros(1, np.int64), np.ones(1, np.int64))
    return plan_of(config, 0, order_only, cutoffs, held_out_N, terms_of(CATALOGUE))
