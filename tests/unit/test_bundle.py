"""A bundle answers what its weights answer, holds what was trained, and is refused when altered."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rayrec.data.dataset import Dataset
from rayrec.evaluate.config import EvaluateConfig
from rayrec.evaluate.evaluator import evaluate
from rayrec.export.bundle import export, load_bundle
from rayrec.models.ranker import catalogue_vectors, load_ranker, new_model, save_weights
from rayrec.privacy import Privacy
from rayrec.schema import Batch, batch_of_rows
from rayrec.storage import fingerprint, publish, read_json, upload_directory, write_json
from rayrec.text import item_texts
from tests import tiny
from tests.synthetic import generate, published
from tests.tiny import states_in_process

ANSWERS = ("score", "like")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundle")


@pytest.fixture(scope="module")
def data(folder: Path) -> Dataset:
    return published(generate(num_users=60, num_items=60, num_interactions=1800), folder / "dataset")


@pytest.fixture(scope="module")
def language_model(folder: Path) -> str:
    return tiny.language_model(folder / "language_model")


@pytest.fixture(scope="module")
def weights(folder: Path, data: Dataset, language_model: str) -> str:
    """A training whose one stage has moved every parameter that may move."""
    lower, model = new_model(tiny.model_config(language_model), num_items=data.num_items, use_text=True, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("top.") or "lora_" in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.fusion.known_N[torch.from_numpy(data.trained_items())] = True
    states = states_in_process(item_texts(data.catalogue()), lower)
    pooled_NH = model.top.pool([states[index] for index in range(len(states))])
    profiles_PH = model.top.pool(lower.states(data.rows("train")["profile"].to_pylist()[:20]))
    model.whitening.fit(pooled_NH, profiles_PH, 0.1)
    written = str(folder / "written")
    save_weights(written, model, catalogue_vectors(model, pooled_NH), {"stage": "moved"})
    uri = str(folder / "weights")
    for stage in ("moved", "other"):
        files = upload_directory(written, f"{uri}/{stage}")
        publish(f"{uri}/{stage}", "weights", files, validation={"ndcg": 0.5})
    changed = write_json(f"{uri}/other/config.json", {**read_json(f"{uri}/other/config.json"), "stage": "other"})
    publish(f"{uri}/other", "weights", {**files, "config.json": changed}, validation={})
    publish(uri, "training", {}, stages=["moved", "other"])
    return uri


@pytest.fixture(scope="module")
def report(folder: Path, data: Dataset, weights: str) -> str:
    """A real report of the weights."""
    uri = str(folder / "report")
    evaluate(data.uri, weights, uri, config=EvaluateConfig(bootstrap=10), seed=0, provenance={})
    return uri


@pytest.fixture(scope="module")
def bundle(folder: Path, data: Dataset, weights: str, report: str) -> str:
    uri = str(folder / "bundle")
    export(data.uri, weights, uri, stage="moved", report=report, provenance={"code": "test"})
    return uri


def batch(data: Dataset) -> Batch:
    return batch_of_rows(data.rows("test")[:20])


@pytest.mark.parametrize("answer", ANSWERS)
def test_it_answers_what_its_weights_answer(bundle: str, data: Dataset, weights: str, answer: str) -> None:
    """New items too, whose texts go through the merged language model."""
    served, trained = load_bundle(bundle).ranker, load_ranker(f"{weights}/moved", data.stats())
    texts = ["A quiet tale of zero gravity", "recipes from a village kitchen"]
    expected_BC = getattr(trained, answer)(batch(data), None, texts)
    np.testing.assert_allclose(getattr(served, answer)(batch(data), None, texts), expected_BC, rtol=1e-5, atol=1e-5)
    assert np.ptp(expected_BC) > 0.1


def test_it_says_what_serving_needs(bundle: str, report: str, data: Dataset) -> None:
    loaded = load_bundle(bundle)
    assert loaded.items == data.catalogue()
    assert loaded.rule == data.rule
    assert loaded.history_length == data.history_length
    assert loaded.as_of == data.cutoffs.end
    assert loaded.manifest["stage"] == "moved"
    assert loaded.manifest["metrics"] == read_json(f"{report}/report.json")["systems"]["moved"]
    assert loaded.manifest["validation"] == {"ndcg": 0.5}
    assert loaded.manifest["code"] == "test"
    assert loaded.manifest["dataset"] == fingerprint(data.uri, "dataset")
    assert loaded.manifest["privacy"] == data.manifest["privacy"]
    assert loaded.privacy.redact is False


def test_it_redacts_as_its_manifest_says(bundle: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    about = json.loads((copy / "manifest.json").read_text())
    redacted = Privacy(b"a key that serving lacks", True, ("US", "DE"))
    (copy / "manifest.json").write_text(json.dumps({**about, "privacy": redacted.about()}))
    assert load_bundle(str(copy)).privacy == Privacy(None, True, ("US", "DE"))


def test_it_holds_the_tuned_language_model_whole(bundle: str, language_model: str) -> None:
    pretrained = load_file(Path(language_model) / "model.safetensors")
    tuned = load_file(Path(bundle) / "language_model" / "model.safetensors")
    assert tuned.keys() == pretrained.keys()
    changed = {name for name in tuned if not torch.equal(tuned[name], pretrained[name])}
    expected = {
        f"encoder.layer.{layer}.attention.self.{part}.weight"
        for layer in range(tiny.LAYERS - 2, tiny.LAYERS)
        for part in ("query", "value")
    }
    assert changed == expected


def test_it_holds_no_pickle(bundle: str) -> None:
    endings = {path.suffix for path in Path(bundle).rglob("*") if path.is_file()}
    assert endings == {".json", ".parquet", ".safetensors"}


@pytest.mark.parametrize(
    "name", ["model.safetensors", "items.parquet", "item_stats.parquet", "language_model/model.safetensors"]
)
def test_an_altered_byte_is_refused_by_name(bundle: str, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    whole = bytearray((copy / name).read_bytes())
    whole[len(whole) // 2] ^= 1
    (copy / name).write_bytes(whole)
    with pytest.raises(ValueError, match=rf"{name}.* altered or torn"):
        load_bundle(str(copy))


def test_a_missing_file_is_refused_by_name(bundle: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (copy / "items.safetensors").unlink()
    with pytest.raises(ValueError, match=r"items\.safetensors is missing"):
        load_bundle(str(copy))


def test_exporting_again_changes_nothing_and_other_weights_are_refused(
    bundle: str, data: Dataset, weights: str
) -> None:
    path = Path(bundle) / "manifest.json"
    before = path.stat().st_mtime_ns
    made = export(data.uri, weights, bundle, stage="moved", report=None, provenance={})
    assert made["stage"] == "moved"
    assert path.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="holds a bundle of other weights"):
        export(data.uri, weights, bundle, stage="other", report=None, provenance={})


def test_a_report_of_other_weights_is_refused(data: Dataset, weights: str, report: str, tmp_path: Path) -> None:
    retrained = tmp_path / "weights"
    shutil.copytree(weights, retrained)
    about = json.loads((retrained / "moved" / "manifest.json").read_text())
    (retrained / "moved" / "manifest.json").write_text(json.dumps({**about, "seed": 1}))
    with pytest.raises(ValueError, match=r"measured other weights than .*/moved"):
        export(data.uri, str(retrained), str(tmp_path / "bundle"), stage="moved", report=report, provenance={})


def test_a_stage_that_was_not_trained_is_refused_with_those_that_were(
    data: Dataset, weights: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="has no stage 'tuned'; expected one of moved, other"):
        export(data.uri, weights, str(tmp_path / "bundle"), stage="tuned", report=None, provenance={})
