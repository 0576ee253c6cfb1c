"""Prefixes of prompts that are kept with their keys and values, so that a prompt pays only for what is new in it."""

import copy
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from .model.media import MediaLayer
from .text_cache import TextLayer


@dataclass(frozen=True)
class Key:
    """What a cache was computed from.

    Attributes:
        ids: tokens, one image token for each picture.
        pictures: their content (or a digest of it), in order.
        image_token_id: which token is the image token.

    Raises:
        ValueError: the numbers of image tokens and pictures differ.
    """

    ids: tuple[int, ...]
    pictures: tuple[bytes, ...]
    image_token_id: int

    def __post_init__(self) -> None:
        if len(self._places) != len(self.pictures):
            raise ValueError(f"the text has {len(self._places)} image tokens, and {len(self.pictures)} pictures")

    @cached_property
    def _tokens(self) -> np.ndarray:
        return np.array(self.ids, dtype=np.int64)

    @cached_property
    def _places(self) -> list[int]:
        """Where the pictures stand."""
        return np.flatnonzero(self._tokens == self.image_token_id).tolist()

    def common(self, other: "Key") -> int:
        """How many tokens both start with, and the pictures in them are the same."""
        count = min(len(self.ids), len(other.ids))
        different = np.flatnonzero(self._tokens[:count] != other._tokens[:count])
        tokens = int(different[0]) if len(different) else count
        for place, mine, theirs in zip(self._places, self.pictures, other.pictures, strict=False):
            if place < tokens and mine != theirs:
                return place
        return tokens

    def count_pictures(self, tokens: int) -> int:
        """How many pictures stand in the first tokens."""
        return sum(place < tokens for place in self._places)


@dataclass(frozen=True)
class _Kept:
    cache: Cache
    size: int  # bytes
    whole: bool  # it can only be used as it is


class PrefixStore:
    """Caches of earlier prompts, the least recently used dropped first. Safe to share between threads.

    Args:
        max_bytes: that all caches together may hold; 0 keeps nothing.
        skip_blocks_without_media: as the model's configuration has it. Where it is not set, pictures change the text
            before them, so that prompts with pictures and prompts without share nothing.
    """

    def __init__(self, max_bytes: int, skip_blocks_without_media: bool = True) -> None:
        self.max_bytes = max_bytes
        self._mix = skip_blocks_without_media
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes that the caches hold together."""
        with self._lock:
            return self._size()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Key) -> tuple[Cache | None, int, int]:
        """What a prompt can take from an earlier one.

        Returns:
            The cache that shares most with the prompt, and how many tokens and pictures that is, for
            :func:`copy_prefix`; ``None``, 0, 0 if there is none. It is there to be read, not to be written. The last
            token of a prompt is never taken from a cache: what comes after it has to be computed.
        """
        best, found = 0, None
        with self._lock:
            for kept in self._kept:
                tokens = self._usable(kept, key)
                if tokens and tokens >= best:  # the more recent one, where two share as much
                    best, found = tokens, kept
            if found is None:
                return None, 0, 0
            self._kept.move_to_end(found)
            return self._kept[found].cache, best, key.count_pictures(best)

    def keep(self, key: Key, cache: Cache) -> None:
        """Keep a cache, which must not be written any more, in favour of those that hold nothing beyond it.

        Raises:
            ValueError: the key says more or fewer tokens than the cache holds.
        """
        if cache.get_seq_length() != len(key.ids):
            raise ValueError(f"the cache holds {cache.get_seq_length()} tokens, and its key {len(key.ids)}")
        for layer in cache.layers:
            if isinstance(layer, TextLayer):
                layer.trim()
        new = _Kept(cache, _bytes(cache), not all(_can_be_cut(layer) for layer in cache.layers))
        if new.size > self.max_bytes:
            return
        with self._lock:
            for kept in list(self._kept):
                if self._replaces(key, new, kept):
                    del self._kept[kept]
                elif self._replaces(kept, self._kept[kept], key):
                    self._kept.move_to_end(kept)
                    return
            self._kept[key] = new
            while self._size() > self.max_bytes:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()

    def _common(self, one: Key, other: Key) -> int:
        return one.common(other) if self._mix or bool(one.pictures) == bool(other.pictures) else 0

    def _usable(self, kept: Key, key: Key) -> int:
        """How many tokens of a prompt a cache can stand for."""
        tokens = min(self._common(kept, key), len(key.ids) - 1)
        return 0 if self._kept[kept].whole and tokens < len(kept.ids) else tokens

    def _replaces(self, key: Key, kept: _Kept, other: Key) -> bool:
        """Whether a cache serves every prompt that the cache of another key serves."""
        return key == other or (not kept.whole and self._common(key, other) == len(other.ids))

    def _size(self) -> int:
        return sum(kept.size for kept in self._kept.values())


def _bytes(cache: Cache) -> int:
    """Bytes of the buffers behind all tensors of a cache."""
    tensors = [value for layer in cache.layers for value in vars(layer).values() if isinstance(value, Tensor)]
    storages = {storage.data_ptr(): storage.nbytes() for storage in (x.untyped_storage() for x in tensors)}
    return sum(storages.values())


def _can_be_cut(layer: Any) -> bool:
    """Whether a layer still holds all that it held when it was shorter."""
    if type(layer) is DynamicSlidingWindowLayer:
        return layer.get_seq_length() < layer.sliding_window
    return type(layer) in (DynamicLayer, TextLayer, MediaLayer)


@torch.no_grad()
def copy_prefix(cache: Cache, tokens: int, pictures: int, latents_per_picture: int, room: int) -> Cache:
    """A cache of its own that holds the start of another one, which is left as it is.

    Args:
        cache: of rows that have their pictures at the same places.
        tokens: how many of them.
        pictures: that stand in these tokens.
        latents_per_picture: R.
        room: tokens to make room for, in all.

    Raises:
        ValueError: there are not so many tokens, or a layer has forgotten what it was when there were only so many.
    """
    if (length := cache.get_seq_length()) < tokens:
        raise ValueError(f"the cache holds {length} tokens; it cannot be cut to {tokens}")
    copied = copy.copy(cache)
    copied.layers = [
        _copy_media(layer, pictures, latents_per_picture)
        if isinstance(layer, MediaLayer)
        else _copy_text(layer, tokens, room, tokens == length)
        for layer in cache.layers
    ]
    return copied


def _copy_media(layer: MediaLayer, pictures: int, latents: int) -> MediaLayer:
    copied = MediaLayer()
    if pictures:
        copied.update(*(x[:, :, : pictures * latents].clone() for x in (layer.keys, layer.values)))
        copied.numbers = None if layer.numbers is None else layer.numbers[:, :pictures].clone()
    return copied


def _copy_text(layer: Any, tokens: int, room: int, whole: bool) -> Any:
    if type(layer) in (DynamicLayer, TextLayer):
        copied = TextLayer(room)
        if tokens:
            copied.update(layer.keys[:, :, :tokens], layer.values[:, :, :tokens])
        return copied
    if not whole and not _can_be_cut(layer):
        raise ValueError(f"a {type(layer).__name__} cannot be cut to {tokens} tokens")
    if type(layer) is DynamicSlidingWindowLayer and layer.is_initialized:
        copied = copy.copy(layer)
        copied.keys, copied.values = (x[:, :, :tokens].clone() for x in (layer.keys, layer.values))
        copied.cumulative_length = tokens
        return copied
    return copy.deepcopy(layer)
