"""Prefixes of prompts that are kept with their keys and values, so that a prompt pays only for what is new in it."""

import copy
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from .model.growing_cache import GrowingLayer
from .model.media import MediaLayer


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


@dataclass
class _Kept:
    cache: Cache
    size: int  # bytes
    whole: bool  # it can only be used as it is
    lent: bool = False  # somebody writes behind what it holds


@dataclass(frozen=True)
class Taken:
    """A cache to write, which holds the start of a prompt.

    Attributes:
        tokens, pictures: that it holds.
    """

    cache: Cache
    tokens: int = 0
    pictures: int = 0
    lender: _Kept | None = field(default=None, repr=False)


class PrefixStore:
    """Caches of earlier prompts, the least recently used dropped first. Safe to share between threads.

    Where a prompt goes on from nearly all that a cache holds, it is not copied: the prompt writes behind what both
    share, and the rest is given up. Until it is done, others get copies.

    Args:
        max_bytes: that all caches together may hold; 0 keeps nothing.
        latents_per_picture: R.
        skip_blocks_without_media: as the model's configuration has it. Where it is not set, pictures change the text
            before them, so that prompts with pictures and prompts without share nothing.
    """

    def __init__(self, max_bytes: int, latents_per_picture: int, skip_blocks_without_media: bool = True) -> None:
        self.max_bytes = max_bytes
        self._latents = latents_per_picture
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

    def take(self, key: Key, room: int) -> Taken | None:
        """What a prompt can go on from, if there is anything; to be given back by :meth:`keep` or :meth:`release`.

        The last token of a prompt is never taken: what comes after it has to be computed.

        Args:
            room: tokens to make room for, in all.
        """
        best, found = 0, None
        with self._lock:
            for other in self._kept:
                tokens = self._usable(other, key)
                if tokens and tokens >= best:  # the more recent one, where two share as much
                    best, found = tokens, other
            if found is None:
                return None
            self._kept.move_to_end(found)
            kept, pictures = self._kept[found], key.count_pictures(best)
            if not self._lends(found, kept, key, best):
                return Taken(copy_prefix(kept.cache, best, pictures, self._latents, room), best, pictures)
            del self._kept[found]
            start = Key(key.ids[:best], key.pictures[:pictures], key.image_token_id)
            held = fork_prefix(kept.cache, best, pictures, self._latents)
            lender = self._kept[start] = _Kept(held, kept.size, kept.whole, lent=True)
            return Taken(fork_prefix(kept.cache, best, pictures, self._latents, room), best, pictures, lender)

    def release(self, taken: Taken) -> None:
        """Give back what was taken, and is not to be kept."""
        if taken.lender is not None:
            taken.lender.lent = False

    def keep(self, key: Key, taken: Taken) -> None:
        """Give back what was taken and keep it, in favour of caches that hold nothing beyond it.

        The cache must not be written any more.

        Raises:
            ValueError: the key says more or fewer tokens than the cache holds.
        """
        cache = taken.cache
        if cache.get_seq_length() != len(key.ids):
            raise ValueError(f"the cache holds {cache.get_seq_length()} tokens, and its key {len(key.ids)}")
        for layer in cache.layers:
            if isinstance(layer, GrowingLayer):
                layer.trim()
        new = _Kept(cache, _bytes(cache), not all(_can_be_cut(layer) for layer in cache.layers))
        with self._lock:
            self.release(taken)
            if new.size > self.max_bytes:
                return
            for other, kept in list(self._kept.items()):
                if kept is taken.lender or self._replaces(key, new, other):
                    del self._kept[other]
                elif self._replaces(other, kept, key):
                    self._kept.move_to_end(other)
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

    def _lends(self, found: Key, kept: _Kept, key: Key, tokens: int) -> bool:
        """Whether a prompt may write into a cache behind the tokens that both share."""
        if kept.lent or not all(isinstance(layer, GrowingLayer) for layer in kept.cache.layers):
            return False
        # What holds no picture any more must not be taken for what never had one.
        return (self._mix or key.count_pictures(tokens) > 0) and _GIVEN_UP * (len(found.ids) - tokens) <= tokens

    def _replaces(self, key: Key, kept: _Kept, other: Key) -> bool:
        """Whether a cache serves every prompt that the cache of another key serves."""
        return key == other or (not kept.whole and self._common(key, other) == len(other.ids))

    def _size(self) -> int:
        return sum(kept.size for kept in self._kept.values())


_GIVEN_UP = 4  # tokens are given up where at least so many times as many are shared


def _bytes(cache: Cache) -> int:
    """Bytes of the buffers behind all tensors of a cache."""
    tensors = [value for layer in cache.layers for value in vars(layer).values() if isinstance(value, Tensor)]
    storages = {storage.data_ptr(): storage.nbytes() for storage in (x.untyped_storage() for x in tensors)}
    return sum(storages.values())


def _can_be_cut(layer: Any) -> bool:
    """Whether a layer still holds all that it held when it was shorter."""
    if type(layer) is DynamicSlidingWindowLayer:
        return layer.get_seq_length() < layer.sliding_window
    return type(layer) in (DynamicLayer, GrowingLayer, MediaLayer)


def fork_prefix(cache: Cache, tokens: int, pictures: int, latents_per_picture: int, room: int = 0) -> Cache:
    """A cache that holds the start of another one in the same memory; arguments as for :func:`copy_prefix`.

    All layers are growing ones, see :meth:`GrowingLayer.fork`.
    """
    forked = copy.copy(cache)
    forked.layers = []
    for layer in cache.layers:
        if isinstance(layer, MediaLayer):
            media = layer.fork(pictures * latents_per_picture) if pictures else MediaLayer()
            assert isinstance(media, MediaLayer)
            if pictures and layer.numbers is not None:
                media.numbers = layer.numbers[:, :pictures]
            forked.layers.append(media)
        else:
            assert isinstance(layer, GrowingLayer)
            forked.layers.append(layer.fork(tokens, room))
    return forked


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
        copied.update(*(x[:, :, : pictures * latents] for x in (layer.keys, layer.values)))
        copied.numbers = None if layer.numbers is None else layer.numbers[:, :pictures].clone()
    return copied


def _copy_text(layer: Any, tokens: int, room: int, whole: bool) -> Any:
    if type(layer) in (DynamicLayer, GrowingLayer):
        copied = GrowingLayer(room)
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
