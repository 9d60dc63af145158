"""The environment of every test, set before anything imports ray, and the one local cluster that tests share."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

CLUSTER_CPUS = 4
"""More than a small machine has: workers of tests wait more than they compute."""
OBJECT_STORE_BYTES = 300_000_000
NO_RAY = ("unit", "contract")

os.environ.update(
    {
        "HOME": tempfile.mkdtemp(prefix="rayrec-home-"),
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "TORCH_EXTENSIONS_DIR": str(Path(__file__).parents[1] / ".torch_extensions"),
    }
)
os.environ.pop("RAY_ADDRESS", None)


@pytest.fixture(autouse=True)
def no_ray(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unit and contract tests start no Ray."""
    if Path(request.fspath).relative_to(Path(__file__).parent).parts[0] not in NO_RAY:
        return
    import ray

    def refuse(*_args: object, **_options: object) -> None:
        raise AssertionError("ray.init in a unit or contract test; move the test to tests/ray")

    monkeypatch.setattr(ray, "init", refuse)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """The local cluster of tests/ray and tests/e2e."""
    from rayrec.stages import ray_session

    with ray_session(num_cpus=CLUSTER_CPUS, object_store_memory=OBJECT_STORE_BYTES):
        yield
