"""Hosts on one machine: network, process and mount namespaces on a bridge; killing its first process kills a host.

The bridge lies in the first host's namespace: nothing of this is seen outside, and all of it ends with the processes.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil

NETWORK = "10.77.0"
PATIENCE_S = 120.0
UNSHARE = ["unshare", "--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]


def not_permitted() -> str:
    """Why hosts cannot be made here; empty where they can."""
    missing = [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not found: install util-linux and iproute2"
    script = "ip link add b0 type bridge && ip link add v0 type veth peer name v1"
    tried = subprocess.run([*UNSHARE, "sh", "-c", script], capture_output=True, text=True)
    return "" if tried.returncode == 0 else f"namespaces are not permitted: {tried.stderr.strip()}"


def wait_for(sign: Callable[[], object], what: str, patience: float = PATIENCE_S) -> None:
    """Returns when something is true.

    Raises:
        TimeoutError: it was not within `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while not sign():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} after {patience:.0f} s")
        time.sleep(0.05)


class Host:
    """Namespaces of its own, with an address on the bridge."""

    def __init__(self, number: int, first: "Host | None") -> None:
        """Args:
        number: of its address.
        first: the host that has the bridge, or None for that host itself.
        """
        self.address = f"{NETWORK}.{number}"
        # It reads for ever, and ends when this process does, however that ends.
        self._holder = subprocess.Popen([*UNSHARE, "cat"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._started: list[subprocess.Popen[bytes]] = []
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
        wait_for(lambda: children.read_text().split(), "namespace")
        self.pid = int(children.read_text().split()[0])
        wait_for(lambda: Path(f"/proc/{self.pid}/comm").read_text().strip() == "cat", "first process")
        self.namespace = os.readlink(f"/proc/{self.pid}/ns/pid")
        self._ip("link", "set", "lo", "up")
        if first is None:
            device = "bridge0"
            self._ip("link", "add", device, "type", "bridge")
        else:
            device, port = "eth0", f"port{number}"
            first._ip("link", "add", port, "type", "veth", "peer", "name", device, "netns", str(self.pid))
            first._ip("link", "set", port, "master", "bridge0", "up")
        self._ip("address", "add", f"{self.address}/24", "dev", device)
        self._ip("link", "set", device, "up")

    def _ip(self, *words: str) -> None:
        """Runs ip in its network, from outside, where the processes of all hosts have a number."""
        subprocess.run(["nsenter", "--target", str(self.pid), "--net", "--", "ip", *words], check=True)

    def start(self, words: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Starts a command on this host."""
        started = subprocess.Popen(
            ["nsenter", "--target", str(self.pid), "--net", "--pid", "--mount", "--", *words],
            env=dict(environment),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        self._started.append(started)
        return started

    def members(self) -> list[psutil.Process]:
        """Its processes."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.readlink(f"/proc/{process.pid}/ns/pid") == self.namespace:
                    found.append(process)
            except OSError:
                continue
        return found

    def pids(self, name: str) -> list[int]:
        """Those of its processes whose command line holds a name."""
        found = []
        for process in self.members():
            try:
                if name in " ".join(process.cmdline()):
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found

    def kill(self) -> None:
        """SIGKILL to its first process, by which the kernel kills all others; returns when none is left."""
        if self._holder.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self._holder.communicate()
        for started in self._started:
            started.wait()
        wait_for(lambda: not self.members(), f"end of {self.address}")


class Hosts:
    """Hosts by number, the first of which has the bridge; all are killed at the end of the block."""

    def __init__(self) -> None:
        self._hosts: list[Host] = []

    def add(self) -> Host:
        """One more, with an address that none had before."""
        self._hosts.append(Host(len(self._hosts) + 1, self._hosts[0] if self._hosts else None))
        return self._hosts[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for host in reversed(self._hosts):
            host.kill()
