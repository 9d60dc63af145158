"""A language model of toy size with random weights, for tests of everything but its knowledge."""

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from rayrec.catalogue import CatalogueStates
from rayrec.item_stats import ItemStats
from rayrec.models.config import LoraConfig, ModelConfig
from rayrec.models.encoder import LowerLayers, TextCache
from rayrec.models.ranker import Ranker, catalogue_vectors, new_model
from rayrec.text import item_texts
from tests.synthetic import FORMATS, OPENINGS, TOPICS

LAYERS = 3
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def language_model(folder: Path) -> str:
    """Saves a three-layer BERT and a tokenizer of the synthetic logs' words; returns the folder."""
    phrases = [*(phrase for phrases in TOPICS.values() for phrase in phrases), *FORMATS, *OPENINGS]
    words = sorted({word for phrase in phrases for word in phrase.lower().replace(",", "").split()})
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, ".", ",", "likes", "it", *words])}
    tokenizer = Tokenizer(models.WordPiece({word: vocabulary[word] for word in vocabulary}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = BertModel(
            BertConfig(
                vocab_size=len(vocabulary),
                hidden_size=32,
                num_hidden_layers=LAYERS,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=64,
                initializer_range=0.2,
            ),
            add_pooling_layer=False,
        )
    model.save_pretrained(folder)
    return str(folder)


def model_config(language_model: str, **changes: object) -> ModelConfig:
    """The smallest useful recommender on that language model."""
    shape: dict[str, object] = {
        "language_model": language_model,
        "max_tokens": 32,
        "embedding_size": 16,
        "user_layers": 1,
        "user_heads": 2,
        "max_positions": 64,
        "lora": LoraConfig(rank=2),
    }
    return ModelConfig.model_validate({**shape, **changes})


@cache
def _shared_language_model() -> str:
    return language_model(Path(tempfile.mkdtemp(prefix="rayrec-language-model-")))


def moved_ranker(catalogue: pa.Table, stats: ItemStats, before_ms: int) -> Ranker:
    """A ranker that no training made: all that may move is moved at random, so that every part of it speaks.

    Args:
        catalogue: of the items.
        stats: of the same items.
        before_ms: items met before it have an ID vector.
    """
    config = model_config(_shared_language_model())
    lower, model = new_model(config, num_items=len(catalogue), use_text=True, seed=0)
    pooled_NH = model.top.pool(lower.states(item_texts(catalogue)))
    profiles_PH = model.top.pool(lower.states(["likes zero gravity", "likes a family dinner"]))
    model.whitening.fit(pooled_NH, profiles_PH, config.whitening_shrinkage)
    items_N, first, last = np.arange(len(catalogue)), np.zeros(1, np.int64), np.full(1, before_ms)
    model.fusion.known_N.copy_(torch.from_numpy(stats.counts_between(items_N, first, last) > 0))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.heads.log_scale.zero_()
        for name, parameter in model.named_parameters():
            if not name.startswith("top."):
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return Ranker(model, TextCache(lower.states), catalogue_vectors(model, pooled_NH), stats)


def states_in_process(texts: Sequence[str], lower: LowerLayers) -> CatalogueStates:
    """The same states without Ray, for small catalogues and tests."""
    states = lower.states(texts)
    offsets_N1 = np.concatenate([[0], np.cumsum([len(state) for state in states])]).astype(np.int64)
    return CatalogueStates(torch.cat(states).numpy(), offsets_N1)
