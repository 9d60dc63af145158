"""Peak memory and processor time of a process and all that it started, on Linux.

What is counted is PSS (/proc/PID/smaps_rollup): private pages whole, a page that several processes share in equal
parts, so that Ray's object store counts once. Pages of the file cache that no process has mapped do not count.
"""

import subprocess
import threading
from collections import Counter
from pathlib import Path

import psutil

INTERVAL_S = 0.25
MB = 1_000_000


def pss(pid: int) -> int:
    """Bytes of a process, 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def cpu_seconds(process: psutil.Process) -> float:
    """User and system time so far."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def role(process: psutil.Process, root: int) -> str:
    """The process that was started is the driver; of Ray's the workers carry `ray::`, the others are its services."""
    if process.pid == root:
        return "driver"
    try:
        return "workers" if " ".join(process.cmdline()).startswith("ray::") else "services"
    except psutil.Error:
        return "services"


class Watch:
    """Samples a process tree until told to stop, and ends it where it takes too much.

    Attributes:
        peaks_mb: greatest sum by role, of all roles (`total`), and of one worker (`worker`).
        cpu_s: by process id, as last seen: of a process that ends, what came after the last sample is lost.
        over_limit: whether the tree was ended for its memory.
    """

    def __init__(self, started: subprocess.Popen[str], limit_bytes: float) -> None:
        """Args:
        started: the root of the tree.
        limit_bytes: of all its processes together.
        """
        self.peaks_mb: dict[str, int] = {}
        self.cpu_s: dict[int, float] = {}
        self.over_limit = False
        self._root, self._limit = psutil.Process(started.pid), limit_bytes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the sampling."""
        self._stop.set()
        self._thread.join()

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _sample(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            tree = self._tree()
            sums: Counter[str] = Counter()
            for process in tree:
                size, part = pss(process.pid), role(process, self._root.pid)
                sums[part] += size
                sums["total"] += size
                self.cpu_s[process.pid] = max(self.cpu_s.get(process.pid, 0.0), cpu_seconds(process))
                if part == "workers":
                    sums["worker"] = max(sums["worker"], size)
            for name, size in sums.items():
                self.peaks_mb[name] = max(self.peaks_mb.get(name, 0), round(size / MB))
            if sums["total"] > self._limit:
                self.over_limit = True
                for process in reversed(tree):
                    if process.is_running():
                        process.kill()
