"""Caches that grow without copying, and that can share what they start with."""

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

_SPARE = 128  # least tokens to make room for beyond those that come


class GrowingLayer(DynamicLayer):
    """Keys and values, [B, H, T, d], in buffers with room for more: a token is written, not concatenated.

    What :meth:`update` returned is written over after a ``crop``; where gradients are recorded, it concatenates.

    Args:
        room: tokens to make room for at the first call, in all.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, room: int = 0) -> None:
        super().__init__()
        self._room = room
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled() and key_states.requires_grad:
            self._buffers = None
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used = self.get_seq_length()
        length = used + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < length:
            capacity = self._room if self._room >= length else max(length + _SPARE, 3 * length // 2)
            self._buffers = (
                _grown(self.keys, key_states, used, capacity),
                _grown(self.values, value_states, used, capacity),
            )
        keys, values = self._buffers
        keys[:, :, used:length], values[:, :, used:length] = key_states, value_states
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]
        return self.keys, self.values

    def trim(self) -> None:
        """Give room back where there is more of it than text."""
        if self._buffers is not None and self._buffers[0].shape[-2] > 2 * self.get_seq_length():
            self.keys, self.values, self._buffers = self.keys.clone(), self.values.clone(), None

    def fork(self, length: int, room: int = 0) -> "GrowingLayer":
        """A layer that starts with the first tokens of this one, in the same memory.

        Of all layers that share memory only one may be written, and none of the others may hold more than it starts
        with.

        Args:
            length: of these tokens.
            room: to make room for where the buffers are too small, in all.
        """
        forked = copy.copy(self)
        forked._room = room
        if self.is_initialized:
            forked.keys, forked.values = self.keys[:, :, :length], self.values[:, :, :length]
        return forked

    # Whatever replaces the tensors leaves the buffers behind.

    def reset(self) -> None:
        super().reset()
        self._buffers = None

    def offload(self) -> None:
        super().offload()
        self._buffers = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._buffers = None

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._buffers = None

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._buffers = None


def _grown(old: Tensor, new: Tensor, used: int, capacity: int) -> Tensor:
    """A buffer for ``capacity`` tokens like those of ``new`` that starts with the first ``used`` ones of ``old``."""
    buffer = new.new_empty(*new.shape[:2], capacity, new.shape[3])
    if used:
        buffer[:, :, :used] = old
    return buffer


def text_cache(config: PreTrainedConfig, room: int) -> DynamicCache:
    """An empty cache for a language model; layers without a window of their own grow without copying.

    Args:
        config: of the language model, or of a model around one.
        room: tokens to make room for, in all.
    """
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
