from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from rayrec.data.dataset import Dataset
from tests import tiny
from tests.synthetic import generate, published


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A gloo group of this process alone, one for all tests: DeepSpeed holds on to the first it meets."""
    meet = tmp_path_factory.mktemp("group") / "meet"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")):
            patch.setenv(name, value)
        dist.init_process_group("gloo", init_method=f"file://{meet}", rank=0, world_size=1)
        yield
        dist.destroy_process_group()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the data set and the toy language model."""
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="session")
def language_model(folder: Path) -> str:
    """Folder of the toy language model."""
    return tiny.language_model(folder / "language_model")


@pytest.fixture(scope="session")
def data(folder: Path) -> Dataset:
    """Synthetic logs, prepared."""
    return published(generate(num_users=60, num_items=60, num_interactions=1800), folder / "dataset")
