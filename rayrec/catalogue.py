"""Encodes the catalogue once: the states below the first trainable layer, memory-mapped by every worker of a node.

Keyed by the hashes of texts, tokenizer and weights, so that nothing stale is ever read.
"""

import hashlib
import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import ray
import torch
from torch import Tensor

from rayrec.models.config import ModelConfig
from rayrec.models.encoder import load_encoder, load_language_model
from rayrec.storage import is_published, join, publish, write_bytes


class CatalogueStates:
    """States of N texts, flat and memory-mapped: text n's tokens are rows offsets_N1[n] to offsets_N1[n + 1].

    Item n has text text_N[n]: its own, but for the control whose texts are shuffled.
    """

    def __init__(self, flat_SH: np.ndarray, offsets_N1: np.ndarray, text_N: np.ndarray | None = None) -> None:
        self.flat_SH = flat_SH
        self.offsets_N1 = offsets_N1
        self.text_N = np.arange(len(offsets_N1) - 1) if text_N is None else text_N

    def __len__(self) -> int:
        return len(self.text_N)

    def __getitem__(self, index: int) -> Tensor:
        """float32 [T, H]."""
        text = self.text_N[index]
        return torch.from_numpy(np.array(self.flat_SH[self.offsets_N1[text] : self.offsets_N1[text + 1]]))

    def shuffled(self, seed: int) -> "CatalogueStates":
        """The same states, each text with an item drawn at random."""
        return CatalogueStates(self.flat_SH, self.offsets_N1, np.random.default_rng(seed).permutation(len(self)))


class _Encode:
    def __init__(self, config: ModelConfig) -> None:
        torch.set_num_threads(1)
        self.lower = load_encoder(config)[0]

    def __call__(self, batch: pa.Table) -> pa.Table:
        states = self.lower.states(batch["text"].to_pylist())
        return pa.table(
            {
                "index": batch["index"],
                "tokens": pa.array([len(state) for state in states], pa.int64()),
                "states": pa.array([state.numpy().astype(np.float32).tobytes() for state in states], pa.large_binary()),
            }
        )


def fingerprint(texts: Sequence[str], config: ModelConfig) -> str:
    """Hash of everything the states depend on: texts, tokenizer, weights and the split."""
    model, tokenizer = load_language_model(config.language_model, config.pretrained)
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
    vocabulary = sorted(tokenizer.get_vocab().items())
    digest.update(repr((vocabulary, repr(tokenizer), config.max_tokens, config.trainable_layers)).encode())
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()[:16]


def encode_catalogue(texts: Sequence[str], config: ModelConfig, uri: str, *, workers: tuple[int, int] = (1, 1)) -> str:
    """Encodes texts by Ray Data and publishes their states below the first trainable layer.

    Args:
        texts: in dense-index order.
        config: the language model and the split.
        uri: parent directory; the states lie in a folder named by their fingerprint and are made only once.
        workers: at least and at most so many concurrent encoders.

    Returns:
        The URI of the folder, for load_states().
    """
    target = join(uri, fingerprint(texts, config))
    if is_published(target):
        return target
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    table = pa.table({"index": pa.array(order, pa.int64()), "text": [texts[index] for index in order]})
    # Blocks are cut here: a repartition task would wait for ever for a CPU where the encoders hold all of them.
    step = max(-(-len(texts) // (4 * workers[1])), 1)
    blocks = [table.slice(start, step) for start in range(0, len(texts), step)]
    encoded = ray.data.from_arrow(blocks).map_batches(
        _Encode,
        fn_constructor_args=(config,),
        batch_size=256,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=workers[0], max_size=workers[1]),
        num_cpus=1,
    )
    parts = pa.concat_tables(ray.get(encoded.to_arrow_refs())).sort_by("index")
    offsets_N1 = np.concatenate([[0], np.cumsum(parts["tokens"].to_numpy())]).astype(np.int64)
    files = {
        "states.bin": write_bytes(join(target, "states.bin"), b"".join(parts["states"].to_pylist())),
        "offsets.bin": write_bytes(join(target, "offsets.bin"), offsets_N1.tobytes()),
    }
    publish(target, "states", files, texts=len(texts))
    return target


def load_states(directory: str) -> CatalogueStates:
    """Memory-maps a local directory of encode_catalogue()."""
    offsets_N1 = np.fromfile(os.path.join(directory, "offsets.bin"), np.int64)
    flat_S = np.memmap(os.path.join(directory, "states.bin"), np.float32, "r")
    return CatalogueStates(flat_S.reshape(int(offsets_N1[-1]), -1), offsets_N1)
