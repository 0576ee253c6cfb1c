"""Gated cross-attention: how a frozen language model sees (Flamingo, arXiv:2204.14198, section 3.1.2)."""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .attention import attend_to, split_heads
from .configuration import FlamingoConfig
from .media import Media
from .resampler import FeedForward


class MaskedCrossAttention(nn.Module):
    """Text tokens attend to the latents of the pictures that they may see."""

    is_causal = False

    def __init__(self, config: FlamingoConfig) -> None:
        super().__init__()
        self.config = config
        self.heads, head_dim = config.cross_attention_heads, config.cross_attention_head_dim
        inner = self.heads * head_dim
        width = config.text_config.hidden_size
        media_width = config.resampler_width or config.feature_width
        self.scaling = head_dim**-0.5
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(media_width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def keys_values(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, R, W] -> two of [B, H, N * R, d]."""
        keys, values = self.to_kv(latents.flatten(1, 2)).chunk(2, dim=-1)
        return split_heads(keys, self.heads), split_heads(values, self.heads)

    def forward(self, hidden_states: Tensor, keys: Tensor, values: Tensor, media: Media) -> Tensor:
        """hidden_states [B, T, D]; keys, values [B, H, N * R, d] -> [B, T, D]."""
        if media.slot is not None:
            slot = media.slot.to(keys.device)
            keys, values = (only_slot(x, slot, media.slots) for x in (keys, values))
        keys, values = media.visible(keys), media.visible(values)
        allowed = media.allowed("eager" if media.watch else self.config._attn_implementation)
        query = split_heads(self.to_q(self.norm(hidden_states)), self.heads)
        allowed = None if allowed is None else allowed.to(query.device)
        return self.to_out(attend_to(self, query, keys, values, allowed, media.watch))


def only_slot(x: Tensor, slot: Tensor, slots: int) -> Tensor:
    """The latents of one slot a row: x [B, H, N * R, d], slot [B] -> [B, H, R, d], without a host synchronisation."""
    x = x.unflatten(2, (slots, -1))
    index = slot[:, None, None, None, None].expand(-1, x.shape[1], 1, *x.shape[3:])
    return x.gather(2, index).squeeze(2)


class GatedCrossAttentionBlock(nn.Module):
    """Stands before a decoder layer: x + tanh(a) * attention(x, pictures), then x + tanh(f) * feed_forward(x)."""

    def __init__(self, config: FlamingoConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.skip = config.skip_blocks_without_media
        self.attention = MaskedCrossAttention(config)
        self.feed_forward = FeedForward(config.text_config.hidden_size, config.cross_attention_ff_mult)
        self.attention_gate = nn.Parameter(torch.full((1,), float(config.gate_init)))
        self.feed_forward_gate = nn.Parameter(torch.full((1,), float(config.gate_init)))

    def forward(self, hidden_states: Tensor, media: Media) -> Tensor:
        """hidden_states [B, T, D] -> [B, T, D]."""
        keys, values = self._keys_values(media, hidden_states)
        sees = media.sees.to(hidden_states.device)[..., None]
        attended = self.attention(hidden_states, keys, values, media) * self.attention_gate.tanh()
        hidden_states = hidden_states + attended.masked_fill(~sees, 0)
        added = self.feed_forward(hidden_states) * self.feed_forward_gate.tanh()
        return hidden_states + (added.masked_fill(~sees, 0) if self.skip else added)

    def _keys_values(self, media: Media, like: Tensor) -> tuple[Tensor, Tensor]:
        layer = media.layers[self.index] if media.layers is not None else None
        if media.latents is None:
            assert layer is not None and layer.keys is not None and layer.values is not None
            return layer.keys, layer.values
        keys, values = self.attention.keys_values(media.latents.to(like.device))
        return (keys, values) if layer is None else layer.update(keys, values)


@functools.cache
def with_media(layer_class: type[nn.Module]) -> type[nn.Module]:
    """A decoder layer class that runs its ``gated_cross_attention`` first.

    The class is made once per layer class and keeps its name, which transformers uses to place layers on devices. A
    subclass, unlike a wrapper, leaves every key of the pretrained state dict where it was.
    """

    def forward(self: Any, hidden_states: Tensor, *args: Any, media: Media | None = None, **kwargs: Any) -> Any:
        if media is not None and self.gated_cross_attention is not None:
            hidden_states = self.gated_cross_attention(hidden_states, media)
        return layer_class.forward(self, hidden_states, *args, **kwargs)

    return type(layer_class.__name__, (layer_class,), {"forward": forward})


def insert_blocks(language_model: PreTrainedModel, config: FlamingoConfig) -> None:
    """Give the decoder layers that ``config`` names a gated block each, in place.

    Raises:
        ValueError: the language model has no stack of ``num_hidden_layers`` decoder layers.
    """
    depth = config.text_config.num_hidden_layers
    stacks = [m for m in language_model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if len(stacks) != 1:
        raise ValueError(f"{type(language_model).__name__} has {len(stacks)} stacks of {depth} layers; it needs one")
    stack: Any = stacks[0]
    for i, layer in enumerate(stack):
        layer.__class__ = with_media(type(layer))  # type: ignore[arg-type]
        block = None
        if i in config.cross_attention_layers:
            block = GatedCrossAttentionBlock(config, config.cross_attention_layers.index(i))
        layer.register_module("gated_cross_attention", block)
