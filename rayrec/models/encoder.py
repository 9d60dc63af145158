"""A pretrained Hugging Face encoder, split at its first trainable layer.

Everything below that layer is frozen, so its output for a text (its states) is computed once; the top layers, with
LoRA or trained whole, run on states in every step.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import LoraConfig as PeftLora
from peft import inject_adapter_in_model
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from rayrec.models.config import ModelConfig
from rayrec.storage import absolute


class _PassThrough(nn.Module):
    """Stands where the embeddings stood: the states of the lower layers are the input."""

    def forward(self, inputs_embeds: Tensor, **_: Any) -> Tensor:
        return inputs_embeds


class LowerLayers:
    """Tokenizer, embeddings and frozen lower layers: texts to states. Not a module, so no optimiser ever sees it."""

    def __init__(self, model: nn.Module, tokenizer: Any, max_tokens: int) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    @torch.inference_mode()
    def states(self, texts: Sequence[str], batch_size: int = 64) -> list[Tensor]:
        """One float32 tensor [T, H] a text, T its own number of tokens (at most max_tokens).

        Texts are encoded in order of length so that padding stays small.
        """
        if not texts:
            return []
        tokens = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        order = sorted(range(len(texts)), key=lambda index: len(tokens[index]))
        states: list[Tensor] = [torch.empty(0)] * len(texts)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            padded = self.tokenizer.pad({"input_ids": [tokens[index] for index in chosen]}, return_tensors="pt")
            output_BTH = self.model(**padded).last_hidden_state
            for row, index in enumerate(chosen):
                states[index] = output_BTH[row, : len(tokens[index])].clone()
        return states


class TextCache:
    """Tensors of texts that come again, such as profiles: the most recently used ones are kept."""

    def __init__(self, compute: Callable[[Sequence[str]], Sequence[Tensor]], capacity: int = 16_384) -> None:
        self.compute = compute
        self.capacity = capacity
        self.kept: OrderedDict[str, Tensor] = OrderedDict()

    def __call__(self, texts: Sequence[str]) -> list[Tensor]:
        """The tensor of each text, in order."""
        missing = [text for text in dict.fromkeys(texts) if text not in self.kept]
        self.kept.update(zip(missing, self.compute(missing) if missing else (), strict=True))
        for text in texts:
            self.kept.move_to_end(text)
        found = [self.kept[text] for text in texts]
        while len(self.kept) > self.capacity:
            self.kept.popitem(last=False)
        return found


@dataclass(frozen=True)
class PaddedStates:
    """States of X texts, padded within groups of like length.

    The number of groups is the same for any X, for under ZeRO-3 every forward of a layer is a collective of all ranks.

    Attributes:
        states_GTH: one tensor [texts, T, H] a group.
        masks_GT: bool, true where there is a token.
        place_X: where each text lies when the groups are laid end to end.
    """

    states_GTH: tuple[Tensor, ...]
    masks_GT: tuple[Tensor, ...]
    place_X: Tensor

    def to(self, device: torch.device | str) -> "PaddedStates":
        """The same on a device."""
        states = tuple(states.to(device, non_blocking=True) for states in self.states_GTH)
        masks = tuple(mask.to(device, non_blocking=True) for mask in self.masks_GT)
        return PaddedStates(states, masks, self.place_X.to(device, non_blocking=True))


LENGTH_GROUPS = 4


def pad_states(states: Sequence[Tensor]) -> PaddedStates:
    """Pads states of at least one text; a group without a text of its own repeats the shortest one."""
    lengths_X = torch.tensor([len(state) for state in states])
    order_X = torch.argsort(lengths_X, stable=True)
    place_X = torch.empty_like(order_X)
    groups, masks, filled = [], [], 0
    for group in torch.tensor_split(order_X, LENGTH_GROUPS):
        chosen = group if len(group) else order_X[:1]
        place_X[group] = torch.arange(filled, filled + len(group))
        filled += len(chosen)
        groups.append(nn.utils.rnn.pad_sequence([states[int(index)] for index in chosen], batch_first=True))
        masks.append(torch.arange(groups[-1].shape[1]) < lengths_X[chosen][:, None])
    return PaddedStates(tuple(groups), tuple(masks), place_X)


class TopLayers(nn.Module):
    """The trainable top layers and the pooling: states to one vector a text.

    Attributes:
        precision: what the layers run in, by autocast; None for that of their weights. Pooling is in fp32.
    """

    def __init__(self, model: nn.Module, pooling: str) -> None:
        super().__init__()
        self.model: Any
        self.model = model
        self.hidden_size: int = self.model.config.hidden_size
        self.pooling = pooling
        self.precision: torch.dtype | None = None

    def checkpoint_layers(self) -> None:
        """From now on the layers keep their input alone and run again, with the same dropout, in the backward pass."""
        for layer in self.model.encoder.layer:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)

    def forward(self, padded: PaddedStates) -> Tensor:
        """Pooled vectors [X, H] of the texts, in their own order."""
        groups = zip(padded.states_GTH, padded.masks_GT, strict=True)
        return torch.cat([self._pool_group(states_UTH, mask_UT) for states_UTH, mask_UT in groups])[padded.place_X]

    def _pool_group(self, states_UTH: Tensor, mask_UT: Tensor) -> Tensor:
        with torch.autocast(states_UTH.device.type, self.precision, enabled=self.precision is not None):
            output = self.model(inputs_embeds=states_UTH, attention_mask=mask_UT.long())
        output_UTH: Tensor = output.last_hidden_state.float()
        if self.pooling == "first":
            return output_UTH[:, 0]
        weights_UT1 = mask_UT.to(output_UTH.dtype)[..., None]
        return (output_UTH * weights_UT1).sum(1) / weights_UT1.sum(1).clamp(min=1)

    @torch.no_grad()
    def pool(self, states: Sequence[Tensor], batch_size: int = 256) -> Tensor:
        """Pooled vectors [len(states), H] on CPU, without gradient and without dropout."""
        training = self.training
        self.eval()
        device = next(self.parameters()).device
        parts = [
            self(pad_states(states[start : start + batch_size]).to(device)).float().cpu()
            for start in range(0, len(states), batch_size)
        ]
        self.train(training)
        return torch.cat(parts) if parts else torch.zeros(0, self.hidden_size)


def load_language_model(uri: str, pretrained: bool = True) -> tuple[Any, Any]:
    """The whole encoder and its tokenizer.

    Args:
        uri: Hugging Face id, local folder, or `package://NAME/PATH`.
        pretrained: false for random weights in the same shape, equal at every call.

    Raises:
        ValueError: no such model, or not BERT-like.
    """
    path = absolute(uri) if "://" in uri else uri
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model = AutoModel.from_pretrained(path, add_pooling_layer=False, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, TypeError) as error:
        raise ValueError(
            f"cannot load the language model {uri!r}: {str(error).splitlines()[0]}; expected a Hugging Face id or a "
            "folder of a BERT-like encoder with config.json, weights and tokenizer"
        ) from error
    if not pretrained:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = type(model)(model.config, add_pooling_layer=False)
    if not hasattr(model, "embeddings") or not hasattr(getattr(model, "encoder", None), "layer"):
        raise ValueError(
            f"{uri!r} is a {type(model).__name__}; expected a BERT-like encoder (BERT, RoBERTa, MiniLM, …)"
        )
    return model, tokenizer


def load_encoder(config: ModelConfig, uri: str | None = None) -> tuple[LowerLayers, TopLayers]:
    """Loads a language model and splits it below its top `trainable_layers`.

    LoRA matrices start at zero effect, so the encoder's output is the pretrained one until they are trained.

    Args:
        config: names the model and the split.
        uri: another place of the same architecture to load from, such as a bundle's.

    Raises:
        ValueError: no such model, not BERT-like, or fewer layers than asked for.
    """
    pretrained = config.pretrained or uri is not None
    uri = uri or config.language_model
    lower, tokenizer = load_language_model(uri, pretrained)
    upper, _ = load_language_model(uri, pretrained)
    layers = len(lower.encoder.layer)
    if config.trainable_layers > layers:
        raise ValueError(f"model.trainable_layers is {config.trainable_layers}; {uri!r} has {layers} layers")
    split = layers - config.trainable_layers
    lower.encoder.layer = lower.encoder.layer[:split]
    upper.embeddings = _PassThrough()
    upper.encoder.layer = upper.encoder.layer[split:]
    upper.requires_grad_(False)
    if config.tuning == "lora":
        lora = config.lora
        adapter = PeftLora(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.modules)
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            inject_adapter_in_model(adapter, upper)
    return LowerLayers(lower, tokenizer, config.max_tokens), TopLayers(upper, config.pooling)


def merged_language_model(config: ModelConfig, top: TopLayers) -> tuple[Any, Any]:
    """The whole language model with the trained top layers put back and LoRA merged into the weights.

    Returns:
        (model, tokenizer), ready for save_pretrained.
    """
    whole, tokenizer = load_language_model(config.language_model, config.pretrained)
    split = len(whole.encoder.layer) - config.trainable_layers
    for index, layer in enumerate(top.model.encoder.layer):
        weights = dict(layer.state_dict())
        for name, module in layer.named_modules():
            if isinstance(module, Linear):
                delta = module.get_delta_weight("default")
                weights[f"{name}.base_layer.weight"] = weights[f"{name}.base_layer.weight"] + delta
        weights = {name.replace(".base_layer", ""): value for name, value in weights.items() if "lora_" not in name}
        whole.encoder.layer[split + index].load_state_dict(weights)
    return whole, tokenizer
