"""What a plan must know of all users at once, found in rounds over all buckets of them: the k-core, few-shot limits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa

from rayrec.data import passes
from rayrec.data.plan import Plan
from rayrec.data.shards import bucket_events
from rayrec.data.split import few_shot_threshold
from rayrec.data.work import READS_AT_ONCE, Record, Run, Work, phase, read_slices, slices_bytes

Look = Callable[[pa.Table, Plan], pa.Table]


def seen_whole(plan: Plan, work: Work, paths: Sequence[str], buckets: int, run: Run) -> Plan:
    """The plan with the items of the k-core and the limits of few-shot training, where the config asks for them.

    Args:
        plan: without them.
        work: where.
        paths: files of slices of interactions, in the order of the logs.
        buckets: of users.
        run: how tasks are run.
    """

    def ask(name: str, look: Look, plan: Plan) -> Iterator[pa.Table]:
        tasks = {f"{bucket:06d}": bucket for bucket in range(buckets)}
        for _ in phase(work, name, partial(_answer, work, plan, paths, name, look), tasks, run):
            pass
        for first in range(0, buckets, READS_AT_ONCE):
            some = range(first, min(first + READS_AT_ONCE, buckets))
            yield from read_slices(work, [_path(work, name, bucket) for bucket in some], 0)

    def limit(name: str, look: Look, plan: Plan, count: int) -> int | None:
        least = np.zeros(0, np.uint64)
        for answer in ask(name, look, plan):
            least = np.sort(np.concatenate([least, answer["draw"].to_numpy()]))[:count]
        return few_shot_threshold([least], count)

    number = 0
    while passes.needs_core_passes(plan):
        counts_N = np.zeros(len(plan.held_out_N), np.int64)
        for answer in ask(f"k-core-{number:04d}", _core_counts, plan):
            counts_N[answer["item"].to_numpy()] += answer["count"].to_numpy()
        keep_N = passes.core_items(counts_N, plan)
        if plan.keep_item_N is not None and (keep_N == plan.keep_item_N).all():
            break
        plan, number = replace(plan, keep_item_N=keep_N), number + 1
    if plan.split.few_shot_users is not None:
        few = limit("few-shot-users", _user_draws, plan, plan.split.few_shot_users)
        plan = replace(plan, few_shot_user_limit=few)
    if plan.split.few_shot_interactions is not None:
        few = limit("few-shot-interactions", _event_draws, plan, plan.split.few_shot_interactions)
        plan = replace(plan, few_shot_event_limit=few)
    return plan


def _core_counts(events: pa.Table, plan: Plan) -> pa.Table:
    counts_N = passes.core_counts(events, plan)
    items = np.flatnonzero(counts_N)
    return pa.table({"item": items, "count": counts_N[items]})


def _user_draws(events: pa.Table, plan: Plan) -> pa.Table:
    return pa.table({"draw": passes.few_shot_user_hashes(events, plan)})


def _event_draws(events: pa.Table, plan: Plan) -> pa.Table:
    return pa.table({"draw": passes.few_shot_event_hashes(events, plan)})


def _path(work: Work, name: str, bucket: int) -> str:
    return work.scratch(name, f"{bucket:06d}.slices")


def _answer(work: Work, plan: Plan, paths: Sequence[str], name: str, look: Look, bucket: int) -> Record:
    events = bucket_events(work, paths, bucket)
    data = slices_bytes([look(events, plan)])
    return {"rows": len(events), "files": work.write(_path(work, name, bucket), data)}
