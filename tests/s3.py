"""An S3 server on loopback that can be killed: moto in a process of its own, which finds its objects again.

It answers late and, now and then, that it is too busy. What clients are told of it goes through the usual variables of
the environment.
"""

import io
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BUCKET = "bucket"
READING = ("GET", "HEAD")
BUSY = b"<Error><Code>ServiceUnavailable</Code><Message>Please try again.</Message></Error>"
START_S = 30.0

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass
class Server:
    """Moto as a process.

    Attributes:
        journal: the file that keeps what was written, from one process to the next.
        busy_every: each so manieth request is answered by 503; 0: none.
        latency_ms: of every request.
        port: on loopback.
    """

    journal: Path
    busy_every: int = 0
    latency_ms: int = 0
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Returns once it answers."""
        self.port = self.port or _free_port()
        words = [self.journal, self.port, self.busy_every, self.latency_ms]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.s3", *map(str, words)], cwd=Path(__file__).parents[1]
        )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError(f"the S3 server did not start (exit code {self.process.poll()})")

    def kill(self) -> None:
        """SIGKILL, in the middle of whatever it does."""
        assert self.process is not None
        self.process.kill()
        assert self.process.wait() == -signal.SIGKILL

    def written(self) -> list[str]:
        """Paths of the objects that were put, in order, as often as that was done."""
        told = (about for about, _ in _kept(self.journal))
        return [about["PATH_INFO"] for about in told if about["REQUEST_METHOD"] == "PUT"]

    def environment(self) -> dict[str, str]:
        """What a user sets. One try a request, so that the job's own retries are what is seen."""
        return {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_MAX_ATTEMPTS": "1",
        }


@contextmanager
def serving(journal: Path, busy_every: int = 0, latency_ms: int = 0) -> Iterator[Server]:
    """A server with an empty BUCKET, gone after the block."""
    server = Server(journal, busy_every, latency_ms)
    server.start()
    try:
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _kept(journal: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The writes of a journal, whose last one may be torn."""
    if journal.exists():
        with open(journal, "rb") as file, suppress(EOFError, pickle.UnpicklingError):
            while True:
                yield pickle.load(file)


def _lasting(app: App, journal: Path) -> App:
    """The app with all that was written to it before, and every successful write kept before it is answered."""
    for told, body in _kept(journal):
        list(app(_request(told, body), lambda *_: None))
    file = open(journal, "ab")  # noqa: SIM115 - as long as the process
    one_at_a_time = threading.Lock()

    def lasting(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in READING:
            return app(environ, start_response)
        length = environ.get("CONTENT_LENGTH")
        body = environ["wsgi.input"].read(int(length)) if length else environ["wsgi.input"].read()
        told = {key: value for key, value in environ.items() if isinstance(value, str | dict)}
        told |= {"CONTENT_LENGTH": str(len(body))}
        told.pop("HTTP_TRANSFER_ENCODING", None)
        statuses: list[str] = []

        def respond(status: str, *rest: Any) -> Any:
            statuses.append(status)
            return start_response(status, *rest)

        with one_at_a_time:
            answer = list(app(_request(told, body), respond))
            if statuses[0].startswith("2"):
                file.write(pickle.dumps((told, body)))
                file.flush()
        return answer

    return lasting


def _request(told: dict[str, Any], body: bytes) -> dict[str, Any]:
    about = {"wsgi.input": io.BytesIO(body), "wsgi.errors": sys.stderr, "wsgi.version": (1, 0)}
    return {**told, **about, "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False}


def _troubled(app: App, busy_every: int, latency_ms: int) -> App:
    """The app, late by some milliseconds, and each so manieth request refused."""
    requests = iter(range(1, sys.maxsize))

    def troubled(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        time.sleep(latency_ms / 1000)
        if busy_every and next(requests) % busy_every == 0:
            start_response("503 Service Unavailable", [("Content-Type", "application/xml"), ("Connection", "close")])
            return [BUSY]
        return app(environ, start_response)

    return troubled


def main() -> None:
    """Serves until it is killed."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server
    from werkzeug.test import create_environ

    class Quiet(MotoRequestHandler):  # type: ignore[misc]
        protocol_version = "HTTP/1.1"

        def log_request(self, *_: object) -> None:
            """Tests need no line a request."""

    journal, port, busy_every, latency_ms = sys.argv[1:]
    app = _lasting(DomainDispatcherApplication(create_backend_app), Path(journal))
    list(app(create_environ(f"/{BUCKET}", f"http://127.0.0.1:{port}", method="PUT"), lambda *_: None))
    app = _troubled(app, int(busy_every), int(latency_ms))
    make_server("127.0.0.1", int(port), app, threaded=True, request_handler=Quiet).serve_forever()


if __name__ == "__main__":
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    main()
