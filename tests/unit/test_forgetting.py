"""The measure of forgetting: known answers, intervals against simulation, long texts, and every refusal.

Letters as in rayrec/evaluate/forgetting.py.
"""

import importlib
import importlib.util
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet
from scipy.stats import spearmanr
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from rayrec.evaluate.forgetting import Pairs, agreement, general_vectors, read_pairs
from rayrec.models.encoder import load_encoder, load_language_model
from rayrec.statistics import Estimate, difference, estimate
from rayrec.storage import write_bytes
from tests import tiny

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
general_text = importlib.import_module("general_text")

NOISE = {"before": 0.3, "after": 0.9}
TWELVE = [(f"text {n}", f"other {n // 2}", n / 4) for n in range(12)]


def all_pairs(similarity_P: Sequence[float], texts: int) -> Pairs:
    """Every pair of some texts."""
    a_P, b_P = np.triu_indices(texts, 1)
    return Pairs(tuple(map(str, range(texts))), a_P, b_P, np.asarray(similarity_P, np.float64))


def fan(angles_T: np.ndarray) -> np.ndarray:
    """Vectors in the plane, float32 [T, 2]: the cosine of two falls as they lie further apart."""
    return np.stack([np.cos(angles_T), np.sin(angles_T)], axis=1).astype(np.float32)


def one(pairs: Pairs, vectors_TH: np.ndarray, samples: int = 10) -> Any:
    return agreement(pairs, {"model": vectors_TH}, samples, 0)["model"]


def table(rows: Sequence[tuple[Any, Any, Any]]) -> pa.Table:
    return pa.table(dict(zip(("text_a", "text_b", "similarity"), map(list, zip(*rows, strict=True)), strict=True)))


def written(folder: Path, columns: pa.Table) -> str:
    parquet.write_table(columns, folder / "pairs.parquet")
    return str(folder / "pairs.parquet")


def test_the_same_order_gives_one_and_the_reversed_one_minus_one() -> None:
    angles_T = np.array([0.0, 0.1, 0.3, 0.7, 1.5])
    a_P, b_P = np.triu_indices(5, 1)
    apart_P = np.abs(angles_T[a_P] - angles_T[b_P])
    for sign in (1, -1):
        found = one(all_pairs(-sign * apart_P**3, 5), fan(angles_T))
        assert found.mean == pytest.approx(sign, abs=1e-12)
        assert found.users == 5
        assert np.nanmin(sign * found.samples_S) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_rank_correlation_of_scipy_with_ties_and_without(seed: int) -> None:
    generator = np.random.default_rng(seed)
    vectors_TH = generator.normal(size=(9, 3)).astype(np.float32) * generator.uniform(0.1, 10, (9, 1))
    if seed % 2:
        vectors_TH = generator.integers(1, 3, (9, 2)).astype(np.float32)
    pairs = all_pairs(generator.integers(0, 4 if seed < 4 else 1000, 36).tolist(), 9)
    cosine_P = [
        float(a @ b / np.sqrt((a @ a) * (b @ b))) for a, b in itertools.combinations(vectors_TH.astype(np.float64), 2)
    ]
    expected = spearmanr(np.round(cosine_P, 6), pairs.similarity_P).statistic
    assert one(pairs, vectors_TH).mean == pytest.approx(expected, abs=1e-12)


def test_every_sample_is_what_its_drawn_texts_say() -> None:
    """Brute force: the pairs of each sample written out one by one, a text's pairs with itself left out."""
    generator = np.random.default_rng(3)
    pairs = all_pairs(generator.integers(0, 5, 15).tolist(), 6)
    vectors_TH = generator.integers(1, 4, (6, 2)).astype(np.float32)
    unit_TH = vectors_TH.astype(np.float64) / np.linalg.norm(vectors_TH.astype(np.float64), axis=1, keepdims=True)
    judged = {(a, b): value for a, b, value in zip(pairs.a_P, pairs.b_P, pairs.similarity_P, strict=True)}
    drawn = np.random.default_rng(0)
    for sampled in one(pairs, vectors_TH, 20).samples_S:
        chosen = np.sort(drawn.integers(0, 6, 6))
        met = [(a, b) for a, b in itertools.combinations(chosen, 2) if a != b]
        cosines = [round(float(unit_TH[a] @ unit_TH[b]), 6) for a, b in met]
        assert sampled == pytest.approx(spearmanr(cosines, [judged[pair] for pair in met]).statistic, abs=1e-12)


def test_a_model_that_finds_all_texts_alike_orders_nothing() -> None:
    generator = np.random.default_rng(0)
    pairs = all_pairs(generator.random(190).tolist(), 20)
    collapsed_TH = np.ones((20, 8)) + 1e-5 * generator.normal(size=(20, 8))
    for vectors_TH in (collapsed_TH, np.zeros((20, 8))):
        assert estimate(one(pairs, vectors_TH, 50)) == Estimate(0, 0, 0)


def test_what_did_not_change_is_forgotten_by_exactly_nothing() -> None:
    generator = np.random.default_rng(0)
    pairs, vectors_TH = all_pairs(generator.random(190).tolist(), 20), generator.normal(size=(20, 8))
    worse_TH = generator.normal(size=(20, 8))
    found = agreement(pairs, {"before": vectors_TH, "after": vectors_TH.copy(), "worse": worse_TH}, 100, 0)
    assert list(found) == ["before", "after", "worse"]
    assert estimate(difference(found["after"], found["before"])) == Estimate(0, 0, 0)
    alone = agreement(pairs, {"worse": worse_TH}, 100, 0)["worse"]
    np.testing.assert_array_equal(alone.samples_S, found["worse"].samples_S)
    assert not np.array_equal(alone.samples_S, agreement(pairs, {"worse": worse_TH}, 100, 1)["worse"].samples_S)


def world(generator: np.random.Generator, pairs: Pairs) -> tuple[Pairs, dict[str, np.ndarray]]:
    """Texts with meanings, people who judge them with noise, and a language model that forgets some of them."""
    meaning_TH = generator.normal(size=(len(pairs.texts), 4))
    unit_TH = meaning_TH / np.linalg.norm(meaning_TH, axis=1, keepdims=True)
    cosine_P = np.einsum("ph,ph->p", unit_TH[pairs.a_P], unit_TH[pairs.b_P])
    judged_P = cosine_P + 0.3 * generator.normal(size=len(cosine_P))
    vectors = {name: meaning_TH + noise * generator.normal(size=meaning_TH.shape) for name, noise in NOISE.items()}
    return Pairs(pairs.texts, pairs.a_P, pairs.b_P, judged_P), vectors


def disjoint(number: int) -> Pairs:
    a_P, b_P = np.arange(2 * number).reshape(2, -1)
    return Pairs(tuple(map(str, range(2 * number))), a_P, b_P, np.zeros(number))


@pytest.mark.parametrize(
    ("pairs", "drawn"), [(all_pairs([0] * 435, 30), 30), (disjoint(60), 60)], ids=["every pair", "no text twice"]
)
def test_95_percent_intervals_of_what_was_forgotten_cover_what_they_should(pairs: Pairs, drawn: int) -> None:
    generator = np.random.default_rng(0)
    truth = agreement(*world(generator, disjoint(100_000)), 1, 0)
    forgotten = difference(truth["after"], truth["before"]).mean
    assert forgotten < -0.2
    estimates = []
    for seed in range(150):
        found = agreement(*world(generator, pairs), 150, seed)
        assert found["after"].users == drawn
        estimates.append(estimate(difference(found["after"], found["before"])))
    covered = np.mean([found.low <= forgotten <= found.high for found in estimates])
    width = np.mean([found.high - found.low for found in estimates])
    assert 0.89 <= covered <= 0.99
    assert 0.8 <= width / (2 * 1.96 * np.std([found.mean for found in estimates])) <= 1.3


def whole(uri: str, texts: Sequence[str], max_tokens: int) -> np.ndarray:
    """Vectors by the unsplit model, one text at a time."""
    model, tokenizer = load_language_model(uri)
    with torch.no_grad():
        tokens = [tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt") for text in texts]
        return torch.stack([model.eval()(**each).last_hidden_state[0].mean(0) for each in tokens]).numpy()


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.language_model(tmp_path_factory.mktemp("language-model"))


def roberta(language_model: str, folder: Path) -> str:
    """A RoBERTa of toy size whose 64 positions begin behind the padding's."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(language_model)
    tokenizer.save_pretrained(folder)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


def test_texts_count_to_what_the_language_model_can_take(language_model: str, tmp_path: Path) -> None:
    """More of them than are encoded at once, which differ beyond model.max_tokens; all have more than 64 tokens."""
    texts = [f"{'a crew of ' * 12} {'moon ' * n} soup {'comet ' * 40}" for n in range(40)] + ["zero gravity"]
    config = tiny.model_config(language_model, max_tokens=32)
    lower, top = load_encoder(config)
    found_TH = general_vectors(lower, top, texts)
    assert found_TH.dtype == np.float32
    np.testing.assert_allclose(found_TH, whole(language_model, texts, 64), atol=1e-5, rtol=1e-5)
    assert np.abs(found_TH - whole(language_model, texts, 32)).max() > 0.01
    assert lower.max_tokens == 32
    lower.tokenizer.model_max_length = 50
    np.testing.assert_allclose(general_vectors(lower, top, texts), whole(language_model, texts, 50), atol=1e-5)
    other = roberta(language_model, tmp_path)
    found_TH = general_vectors(*load_encoder(tiny.model_config(other, trainable_layers=1)), texts)
    np.testing.assert_allclose(found_TH, whole(other, texts, 63), atol=1e-5, rtol=1e-5)


def test_the_vectors_are_those_of_the_tuned_layers(language_model: str) -> None:
    lower, top = load_encoder(tiny.model_config(language_model))
    before_TH = general_vectors(lower, top, ["zero gravity", "a lost satellite"])
    with torch.no_grad():
        for name, parameter in top.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    after_TH = general_vectors(lower, top.train(), ["zero gravity", "a lost satellite"])
    assert np.abs(after_TH - before_TH).max() > 0.01
    np.testing.assert_array_equal(after_TH, general_vectors(lower, top.eval(), ["zero gravity", "a lost satellite"]))


@pytest.mark.parametrize("name", ["pairs.parquet", "pairs.csv", "pairs.jsonl", "pairs.json"])
def test_a_table_is_read_alike_from_any_file(name: str, tmp_path: Path) -> None:
    rows = [*TWELVE, ("other 0", "text, 99", 3.0), ("itself", "itself", 5.0)]
    path = tmp_path / name
    lines = [json.dumps({"n": 1, **row}) for row in table(rows).to_pylist()]
    if path.suffix == ".parquet":
        parquet.write_table(table(rows), path, row_group_size=5)
    elif path.suffix == ".csv":
        csv.write_csv(table(rows), path)
    else:
        path.write_text("\n".join(lines) if path.suffix == ".jsonl" else f"[{','.join(lines)}]")
    write_bytes(f"memory://forgetting/{name}", path.read_bytes())
    for uri in (str(path), f"memory://forgetting/{name}"):
        pairs = read_pairs(uri)
        assert [(pairs.texts[a], pairs.texts[b]) for a, b in zip(pairs.a_P, pairs.b_P, strict=True)] == [
            (a, b) for a, b, _ in rows[:-1]
        ]
        assert pairs.similarity_P.tolist() == [similarity for _, _, similarity in rows[:-1]]
        assert len(pairs.texts) == len(set(pairs.texts)) == 19


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (TWELVE[:9], "9 pairs of different texts and 9 different similarities; expected at least 10 and 2"),
        ([], "0 pairs"),
        ([*TWELVE[:9], ("same", "same", 1.0)], "9 pairs"),
        ([(a, b, 3.0) for a, b, _ in TWELVE], "12 pairs of different texts and 1 different similarities"),
        ([*TWELVE, ("a", None, 1.0)], "row 12 counting from 0: the text_b is no text"),
        ([*TWELVE, (" ", "b", 1.0)], "row 12 counting from 0: the text_a is no text"),
        ([*TWELVE, ("a", "b", None)], "row 12 counting from 0: the similarity None is no finite number"),
        ([*TWELVE, ("a", "b", float("inf"))], "row 12 counting from 0: the similarity inf is no finite number"),
        ([("a", "b", "5"), ("a", "c", "very")], "row 1 counting from 0: the similarity 'very' is no finite number"),
    ],
)
def test_a_table_that_cannot_tell_is_refused(rows: list[tuple[Any, Any, Any]], message: str, tmp_path: Path) -> None:
    columns = table(rows) if rows else table(TWELVE).slice(0, 0)
    with pytest.raises(ValueError, match=message):
        read_pairs(written(tmp_path, columns))


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no column 'similarity'; found text_a, text_b, score"):
        read_pairs(written(tmp_path, table(TWELVE).rename_columns(["text_a", "text_b", "score"])))


def test_a_row_that_cannot_be_parsed_and_a_file_that_is_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("text_a,text_b,similarity\na,b,1\na,b\n")
    with pytest.raises(ValueError, match="row 1 counting from 0: wrong number of fields"):
        read_pairs(str(tmp_path / "pairs.csv"))
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ValueError, match="no column 'text_a'; found none"):
        read_pairs(str(tmp_path / "empty.csv"))
    with pytest.raises(ValueError, match="no file to read"):
        read_pairs(str(tmp_path / "absent.csv"))


def test_a_language_model_that_diverged_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'tuned' gives general texts vectors that are not finite"):
        agreement(all_pairs(range(10), 5), {"frozen": np.ones((5, 2)), "tuned": np.full((5, 2), np.nan)}, 10, 0)


def test_the_table_of_news_holds_every_pair_of_documents_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a package of that name with 50 documents of our own."""
    data = tmp_path / "gensim" / "test" / "test_data"
    data.mkdir(parents=True)
    (tmp_path / "gensim" / "__init__.py").write_text("raise AssertionError('imported')")
    (data / "lee.cor").write_bytes("\n".join(f"document {n} for \u00a33" for n in range(50)).encode("latin-1"))
    np.savetxt(data / "similarities0-1.txt", np.triu(np.add.outer(np.arange(50), np.arange(50) / 100)), delimiter="\t")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["general_text.py", str(tmp_path / "out" / "lee.parquet")])
    general_text.main()
    assert parquet.read_metadata(tmp_path / "out" / "lee.parquet").num_rows == 1225
    pairs = read_pairs(str(tmp_path / "out" / "lee.parquet"))
    assert pairs.texts[7] == "document 7 for \u00a33"
    assert len(pairs.texts) == 50
    np.testing.assert_allclose(pairs.similarity_P, pairs.a_P + pairs.b_P / 100)
    (data / "lee.cor").write_text("one\ntwo")
    with pytest.raises(SystemExit, match="has 2 texts"):
        general_text.main()


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps gensim"):
        general_text.data_folder()
