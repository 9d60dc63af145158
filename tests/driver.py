"""A verb as a user starts it: a process with a Ray of its own, which can be signalled or killed and leaves nothing."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rayrec.stages import RunConfig

COMMAND = """
import sys
from rayrec.cli import main
from rayrec.stages import ray_session

with ray_session(num_cpus=2, object_store_memory=100_000_000):
    sys.exit(main([sys.argv[1], "--config", sys.argv[2]]))
"""
MARK = "RAYREC_TEST_DRIVER"
"""A variable that all processes of one driver inherit, by which they are found."""
PATIENCE_S = 200.0


@dataclass(frozen=True)
class Driver:
    """A running command."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait_for(self, sign: Callable[[], object]) -> None:
        """Returns as soon as something is true of the work under way."""
        deadline = time.monotonic() + PATIENCE_S
        while not sign():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.005)

    def kill(self) -> None:
        """SIGKILL to the driver alone; its Ray notices by itself."""
        self.process.kill()
        assert self.process.wait() == -signal.SIGKILL

    def interrupt(self) -> None:
        """SIGINT to the driver and all that it has started, as a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def terminate(self) -> None:
        """SIGTERM to the driver."""
        self.process.terminate()

    def finish(self) -> tuple[int, str]:
        """The exit code, and what was printed."""
        code = self.process.wait(PATIENCE_S)
        return code, self.log.read_text()


@contextmanager
def running(
    verb: str, config: RunConfig, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Driver]:
    """`rayrec VERB` of a config; whatever still runs of it after the block is killed.

    Args:
        verb: prepare or train.
        config: of the run.
        folder: for the config's file and what the command prints.
        environment: variables beside this process's.
    """
    name = uuid.uuid4().hex
    path, log = folder / f"{name}.yaml", folder / f"{name}.log"
    path.write_text(json.dumps(config.model_dump(mode="json")))  # JSON is YAML
    marked = {**os.environ, **(environment or {}), MARK: name}
    with open(log, "wb") as printed:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, verb, str(path)],
            env=marked,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Driver(process, log)
    finally:
        while left := _marked(name):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.poll()
            time.sleep(0.05)


def preparing(
    config: RunConfig, folder: Path, environment: Mapping[str, str] | None = None
) -> AbstractContextManager[Driver]:
    """`rayrec prepare`; see running()."""
    return running("prepare", config, folder, environment)


def _marked(name: str) -> list[int]:
    """Processes that a driver's variable is found in, those that have ended left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"{MARK}={name}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found
