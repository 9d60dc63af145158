"""A training that hangs ends on every rank, and names who holds it up, where; one that goes on is left alone."""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from rayrec.train.watchdog import HUNG, Watchdog

SECONDS = 4.0
PATIENCE_S = 60


def asleep() -> None:
    """Where a rank hangs."""
    while True:
        time.sleep(0.1)


def hangs_in_front_of_a_collective(rank: int, watchdog: Watchdog) -> None:
    watchdog.beat(6, "reading")
    if rank == 1:
        asleep()
    watchdog.beat(6, "step")
    dist.all_reduce(torch.zeros(1))


def hangs_without_rank_0(rank: int, watchdog: Watchdog) -> None:
    """Its store is gone with it."""
    watchdog.beat(6, "step")
    if rank == 0:
        time.sleep(SECONDS / 2)
        os._exit(0)
    asleep()


def work(rank: int, folder: Path, port: int, hang: Callable[[int, Watchdog], None]) -> None:
    with open(folder / f"{rank}.log", "wb") as log:
        os.dup2(log.fileno(), 2)
    how = f"tcp://127.0.0.1:{port}" if port else f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=how, rank=rank, world_size=2)
    with Watchdog(SECONDS) as watchdog:
        begun, step = time.monotonic(), 0
        while time.monotonic() < begun + 1.3 * SECONDS:  # longer than the limit, but it beats
            watchdog.beat(step, "step")
            time.sleep(0.05)
            step += 1
        dist.barrier()
        (folder / f"{rank}.alive").touch()
        hang(rank, watchdog)


def outcome(folder: Path, hang: Callable[[int, Watchdog], None], port: int = 0) -> tuple[list[int | None], list[str]]:
    """Exit codes, and what went to stderr, by rank."""
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=work, args=(rank, folder, port, hang)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(PATIENCE_S)
        process.kill()
    assert all((folder / f"{rank}.alive").exists() for rank in range(2))
    return [process.exitcode for process in ranks], [(folder / f"{rank}.log").read_text() for rank in range(2)]


def test_a_rank_that_never_reaches_a_collective_is_named_by_all(tmp_path: Path) -> None:
    codes, logs = outcome(tmp_path, hangs_in_front_of_a_collective)
    assert codes[0] in (HUNG, 1), logs  # 1: the collective failed by the other's end
    assert codes[1] == HUNG, logs
    waiting, hanging = logs
    for log in logs:
        assert "; behind: rank 1 at step 6, doing 'reading' in asleep (test_watchdog.py:" in log
        assert "goes on from its last checkpoint" in log
    assert "rank 0 of 2 stands still for 4 s, at step 6, doing 'step' in " in waiting
    assert "in hangs_in_front_of_a_collective" in waiting.partition("goes on from")[2]  # the stacks
    assert "in asleep" in hanging.partition("goes on from")[2]


def test_a_store_that_is_gone_is_said_and_blocks_nothing(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    codes, logs = outcome(tmp_path, hangs_without_rank_0, port)
    assert codes == [0, HUNG], logs
    assert "the store that rank 0 keeps does not answer for rank 0: rank 0 or its node is down" in logs[1]
