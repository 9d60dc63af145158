"""A real bundle of the synthetic logs, made in seconds: the language model's real weights at step 0, not trained."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from rayrec.data.dataset import Dataset
from rayrec.export.bundle import export
from rayrec.models.config import ModelConfig
from rayrec.models.ranker import catalogue_vectors, new_model, save_weights
from rayrec.storage import publish, upload_directory
from rayrec.text import item_texts
from tests.synthetic import SyntheticLogs, generate, published
from tests.tiny import states_in_process


@dataclass(frozen=True)
class Exported:
    """A bundle and what it was made of."""

    logs: SyntheticLogs
    data: Dataset
    uri: str


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The zero-shot system, exported."""
    folder: Path = tmp_path_factory.mktemp("exported")
    logs = generate()
    data = published(logs, folder / "dataset")
    config = ModelConfig()
    lower, model = new_model(config, num_items=data.num_items, use_text=True, seed=0)
    states = states_in_process(item_texts(data.catalogue()), lower)
    pooled_NH = model.top.pool([states[index] for index in range(len(states))])
    trained = torch.from_numpy(data.trained_items())
    profiles_PH = pooled_NH[:0]
    model.whitening.fit(pooled_NH[trained], profiles_PH, config.whitening_shrinkage)
    save_weights(str(folder / "written"), model, catalogue_vectors(model, pooled_NH), {"stage": "zero_shot"})
    weights = str(folder / "weights")
    files = upload_directory(str(folder / "written"), f"{weights}/zero_shot")
    publish(f"{weights}/zero_shot", "weights", files, stage="zero_shot", validation={})
    publish(weights, "training", {}, stages=["zero_shot"])
    uri = str(folder / "bundle")
    export(data.uri, weights, uri, stage="zero_shot", report=None, provenance={})
    return Exported(logs, data, uri)


@pytest.fixture(scope="session")
def bundle_uri(exported: Exported) -> str:
    """URI of the exported bundle."""
    return exported.uri
