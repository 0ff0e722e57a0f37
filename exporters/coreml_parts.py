"""Whisper's three parts in plain torch, in the layout of WhisperKit's contract: (1, channels, 1, positions).

The same arithmetic as transformers' Whisper: linear layers are 1 × 1 convolutions here, which is what the Neural Engine
computes best (Apple, "Deploying Transformers on the Apple Neural Engine"), and the decoder takes one token and the keys
and values of all earlier ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from exporters.checkpoint import Checkpoint
from exporters.layout import Dims
from exporters.whisperkit import PARTS
from idiolect.errors import CheckpointError
from idiolect.whisper import HOP_SAMPLES, N_FFT, mel_filterbank

if TYPE_CHECKING:
    import torch

    Tensor: TypeAlias = torch.Tensor
    Weights: TypeAlias = Mapping[str, torch.Tensor]

Heads: TypeAlias = tuple[tuple[int, int], ...]


def alignment_heads(folder: Path, dims: Dims) -> Heads:
    """(layer, head) of the heads that follow the audio, from generation_config.json; empty where it names none.

    Raises CheckpointError for heads that the model does not have.
    """
    path = folder / "generation_config.json"
    try:
        found = json.loads(path.read_bytes()).get("alignment_heads") or []
        heads = tuple((layer, head) for layer, head in found)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{path}: unreadable", "copy it from the base model") from None
    for layer, head in heads:
        if layer not in range(dims.n_text_layer) or head not in range(dims.n_text_head):
            raise CheckpointError(f"{path}: the model has no alignment head {[layer, head]}", "copy it from the base")
    return heads


def build(part: str, model: Checkpoint) -> torch.nn.Module:
    """One of PARTS as a module of float32 weights whose forward takes the contract's inputs in order.

    Raises CheckpointError for weights that are not finite in float16.
    """
    import torch

    side = {"AudioEncoder": "encoder.", "TextDecoder": "decoder."}.get(part)
    if side is None:
        weights = _mel_tables(model.dims.n_mels)
    else:
        names = [name for name in model.tensors if name.startswith(side)]
        weights = {name.removeprefix(side): _load(model, name) for name in names}
    forward = _FORWARDS[part](model)

    class Part(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, weight in weights.items():
                self.register_buffer(name.replace(".", "__"), weight)

        def forward(self, *inputs: Tensor) -> Any:  # noqa: ANN401
            return forward({name.replace("__", "."): weight for name, weight in self.named_buffers()}, *inputs)

    return Part().eval()


def _load(model: Checkpoint, name: str) -> Tensor:
    import numpy as np
    import torch

    tensor = model.tensors[name]
    values = np.empty(math.prod(tensor.shape), np.float32)
    at = 0
    for chunk in tensor.chunks():
        values[at : at + chunk.size] = chunk
        at += chunk.size
    return torch.from_numpy(values).view(tensor.shape)


def _mel_tables(n_mels: int) -> dict[str, Tensor]:
    """The windowed Fourier transform as convolution kernels (402, 1, 400), cosines then sines; the mel filters."""
    import torch

    bins, samples = torch.arange(N_FFT // 2 + 1)[:, None], torch.arange(N_FFT)[None]
    angle = (bins * samples % N_FFT).double() * (2 * math.pi / N_FFT)
    window = torch.hann_window(N_FFT, dtype=torch.float64)
    kernels = torch.cat([angle.cos(), angle.sin()]) * window
    return {"fourier": kernels.float()[:, None], "filters": torch.tensor(mel_filterbank(n_mels), dtype=torch.float32)}


def _mel_spectrogram(model: Checkpoint) -> Callable[..., Any]:
    def forward(weights: Weights, audio: Tensor) -> Tensor:
        from torch.nn.functional import conv1d, pad

        samples = pad(audio[None, None], (N_FFT // 2, N_FFT // 2), mode="reflect")
        waves = conv1d(samples, weights["fourier"], stride=HOP_SAMPLES)[:, :, :-1]
        bins = N_FFT // 2 + 1
        energies = weights["filters"] @ (waves[:, :bins].square() + waves[:, bins:].square())
        logs = energies.clamp(min=1e-10).log() * (1 / math.log(10))
        floored = logs.maximum(logs.amax(dim=(1, 2), keepdim=True) - 8.0)
        return ((floored + 4.0) * 0.25).unsqueeze(2)

    return forward


def _audio_encoder(model: Checkpoint) -> Callable[..., Any]:
    dims = model.dims

    def forward(weights: Weights, mel: Tensor) -> Tensor:
        from torch.nn.functional import conv2d, gelu

        kernels = weights["conv1.weight"][:, :, None], weights["conv2.weight"][:, :, None]
        hidden = gelu(conv2d(mel, kernels[0], weights["conv1.bias"], padding=(0, 1)))
        hidden = gelu(conv2d(hidden, kernels[1], weights["conv2.bias"], stride=(1, 2), padding=(0, 1)))
        hidden = hidden + weights["embed_positions.weight"].T[None, :, None]
        for layer in range(dims.n_audio_layer):
            w = _Layer(weights, f"layers.{layer}.")
            x = w.norm("self_attn_layer_norm", hidden)
            q, k, v = (w.linear(f"self_attn.{name}_proj", x) for name in "qkv")
            hidden = hidden + w.linear("self_attn.out_proj", _attend(q, k, v, dims.n_audio_head)[0])
            hidden = hidden + w.mlp(hidden)
        return _Layer(weights, "").norm("layer_norm", hidden)

    return forward


def _text_decoder(model: Checkpoint) -> Callable[..., Any]:
    dims, chosen = model.dims, alignment_heads(model.folder, model.dims)
    width, heads = dims.n_text_state, dims.n_text_head

    def forward(
        weights: Weights,
        input_ids: Tensor,
        cache_length: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        kv_cache_update_mask: Tensor,
        encoder_output_embeds: Tensor,
        decoder_key_padding_mask: Tensor,
    ) -> tuple[Tensor, ...]:
        import torch
        from torch.nn.functional import embedding, linear

        table = weights["embed_tokens.weight"]
        hidden = embedding(input_ids, table) + embedding(cache_length, weights["embed_positions.weight"])
        hidden = hidden[:, :, None, None]
        now, unheard = kv_cache_update_mask[:, None, None], decoder_key_padding_mask[:, None, None]
        before, new_keys, new_values, listening = 1.0 - now, [], [], []
        caches = [cache.split(width, 1) for cache in (key_cache, value_cache)]  # type: ignore[no-untyped-call]
        for layer, (keys, values) in enumerate(zip(*caches, strict=True)):
            w = _Layer(weights, f"layers.{layer}.")
            x = w.norm("self_attn_layer_norm", hidden)
            q, k, v = (w.linear(f"self_attn.{name}_proj", x) for name in "qkv")
            new_keys.append(k)
            new_values.append(v)
            said = _attend(q, keys * before + k * now, values * before + v * now, heads, unheard)[0]
            hidden = hidden + w.linear("self_attn.out_proj", said)
            q = w.linear("encoder_attn.q_proj", w.norm("encoder_attn_layer_norm", hidden))
            k, v = (w.linear(f"encoder_attn.{name}_proj", encoder_output_embeds) for name in "kv")
            heard, where = _attend(q, k, v, heads)
            listening.append(where)
            hidden = hidden + w.linear("encoder_attn.out_proj", heard)
            hidden = hidden + w.mlp(hidden)
        hidden = _Layer(weights, "").norm("layer_norm", hidden)
        logits = linear(hidden.view(1, 1, width), table)
        outputs = (logits, torch.cat(new_keys, 1), torch.cat(new_values, 1))
        return (*outputs, _mean_of(listening, chosen)) if chosen else outputs

    return forward


class _Layer:
    """The weights under one prefix, as the three things a Transformer does with them."""

    def __init__(self, weights: Weights, prefix: str) -> None:
        self._weights, self._prefix = weights, prefix

    def linear(self, name: str, x: Tensor) -> Tensor:
        from torch.nn.functional import conv2d

        name = self._prefix + name
        return conv2d(x, self._weights[f"{name}.weight"][:, :, None, None], self._weights.get(f"{name}.bias"))

    def norm(self, name: str, x: Tensor) -> Tensor:
        """Layer norm over the channels, written so that coremltools makes one `layer_norm` of it whatever the weights
        are: weights of exactly 1 would vanish from a product. The batch norm's epsilon is lost in float16."""
        import torch
        from torch.nn.functional import batch_norm

        name = self._prefix + name
        centred = x - x.mean(1, keepdim=True)
        scaled = centred * (centred.square().mean(1, keepdim=True) + 1e-5).rsqrt()
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return batch_norm(scaled, torch.zeros_like(bias), torch.ones_like(weight), weight, bias)

    def mlp(self, hidden: Tensor) -> Tensor:
        from torch.nn.functional import gelu

        return self.linear("fc2", gelu(self.linear("fc1", self.norm("final_layer_norm", hidden))))


def _attend(
    query: Tensor, keys: Tensor, values: Tensor, heads: int, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What is heard (1, width, 1, queries), and how much of each key (1, heads, queries, keys)."""
    width = query.shape[1]
    q, k, v = (x.view(1, heads, width // heads, x.shape[3]) for x in (query, keys, values))
    scores = (q * (width // heads) ** -0.5).transpose(2, 3) @ k
    if mask is not None:
        scores = scores + mask
    share = scores.softmax(3)
    return (v @ share.transpose(2, 3)).reshape(query.shape), share


def _mean_of(listening: Sequence[Tensor], chosen: Heads) -> Tensor:
    """Mean attention (1, positions) of the chosen heads."""
    import torch

    return torch.cat([listening[layer][:, head] for layer, head in chosen], 1).mean(1)


_FORWARDS = dict(zip(PARTS, (_mel_spectrogram, _audio_encoder, _text_decoder), strict=True))
