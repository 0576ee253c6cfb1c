"""The decode step, compiled: one token in, the scores of the next out."""

import itertools
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from .errors import ModelError
from .model import FlamingoForConditionalGeneration
from .model.gated_cross_attention import only_slot
from .model.growing_cache import GrowingLayer
from .model.media import Media, MediaLayer

_STEP = 256  # buffers are so many tokens long, or a multiple

Pairs = list[tuple[Tensor, Tensor]]
"""Keys and values of every layer, [1, H, S, d]."""


class CompiledStep:
    """Compiles the decode step of a model when it is first used; safe to share between threads.

    Text lies in buffers that outlive an answer and are read whole, under a mask; of the pictures a step reads those
    that its token sees. So no shape depends on how far an answer is, and on CUDA the step is one graph. On a CPU the
    program holds a copy of the weights, packed as the processor reads them fastest.

    Args:
        model: in evaluation mode, on its device; its weights must not change any more.
    """

    def __init__(self, model: FlamingoForConditionalGeneration) -> None:
        self.model = model
        mode = "reduce-overhead" if model.device.type == "cuda" else None
        # torch counts programs by their code and refuses a ninth: every model gets code of its own.
        own = types.FunctionType(CompiledStep._next.__code__.replace(), globals(), "_next")
        self._program = torch.compile(types.MethodType(own, self), fullgraph=True, mode=mode)
        self._is_compiled = False
        self._free: list[_Buffers] = []
        self._lock, self._compiling = threading.Lock(), threading.Lock()

    @contextmanager
    def over(self, cache: Cache, room: int) -> "Iterator[_Decoder]":
        """Steps that go on from a cache of one row, which takes in what they read at the end.

        Args:
            room: tokens to make room for, in all.

        Raises:
            ModelError: a layer of the cache has no fixed shape.
        """
        layers = [layer for layer in cache.layers if not isinstance(layer, MediaLayer)]
        if wrong := {type(layer).__name__ for layer in layers} - {GrowingLayer.__name__}:
            raise ModelError(
                f"this model cannot be compiled: it keeps text in a {wrong.pop()}; load it without compile"
            )
        text: Pairs = [(layer.keys, layer.values) for layer in layers]
        buffers = self._borrow(text, room)
        length = cache.get_seq_length()
        with torch.inference_mode():
            for (keys, values), (old_keys, old_values) in zip(buffers.text, text, strict=True):
                keys[:, :, :length], values[:, :, :length] = old_keys, old_values
        decoder = _Decoder(self._run, buffers, length, *self._pictures(cache))
        try:
            yield decoder
        finally:
            new = slice(length, decoder.length)
            with torch.inference_mode():
                for layer, (keys, values) in zip(layers, buffers.text, strict=True):
                    layer.update(keys[:, :, new], values[:, :, new])
            with self._lock:
                self._free.append(buffers)

    def _run(self, *args: Any) -> Tensor:
        """The program; the first call compiles it.

        On a CPU in bfloat16 its weights are constants, which inductor packs for oneDNN. In float32 it would pack them
        for MKL, which is slower than what :class:`~assistant.prepacking.PrepackedLinear` does.
        """
        if not self._is_compiled:
            import torch._inductor.config as inductor  # slow to import

            freezes = self.model.device.type == "cpu" and self.model.dtype != torch.float32
            with self._compiling, inductor.patch(freezing=freezes):
                logits = self._program(*args)
                self._is_compiled = True
                return logits
        return self._program(*args)

    def _borrow(self, like: Pairs, room: int) -> "_Buffers":
        with self._lock:
            fitting = [buffers for buffers in self._free if buffers.capacity >= room]
            if fitting:
                self._free.remove(smallest := min(fitting, key=lambda buffers: buffers.capacity))
                return smallest
        return _Buffers(like, -(-room // _STEP) * _STEP)

    def can_step(self, cache: Cache) -> bool:
        """Whether the program does what the model does after a prompt: it never leaves the gated blocks out.

        Without a picture they add nothing, unless their feed-forward runs on text that sees none.
        """
        return self.model.config.skip_blocks_without_media or bool(_filled(cache))

    def _pictures(self, cache: Cache) -> tuple[Pairs, Tensor]:
        """What the gated blocks read after a prompt, of the latest picture or of all; and if there is any, [1, 1]."""
        layers, config = _filled(cache), self.model.config
        if not layers:
            shape = (1, config.cross_attention_heads, config.resampler_latents, config.cross_attention_head_dim)
            blank = torch.zeros(shape, dtype=self.model.dtype, device=self.model.device)
            pairs = [(blank.clone(), blank.clone()) for _ in config.cross_attention_layers]
            return pairs, blank.new_zeros(1, 1, dtype=torch.bool)
        numbers = layers[0].numbers
        assert numbers is not None
        sees = numbers.new_ones(1, 1, dtype=torch.bool)
        if config.attend != "latest":
            pairs = [(layer.keys.contiguous(), layer.values.contiguous()) for layer in layers]
            for x in itertools.chain.from_iterable(pairs):
                torch._dynamo.maybe_mark_dynamic(x, 2)
            return pairs, sees
        slot, slots = numbers.argmax(dim=1), numbers.shape[1]
        return [(only_slot(layer.keys, slot, slots), only_slot(layer.values, slot, slots)) for layer in layers], sees

    def _next(self, token: Tensor, position: Tensor, text: Pairs, pictures: Pairs, sees: Tensor) -> Tensor:
        """token [1, 1] at position [1] -> logits [1, V]; the buffers take in its keys and values."""
        cache = DynamicCache()
        cache.layers = [_Fixed(keys, values, position) for keys, values in text]
        places = torch.arange(text[0][0].shape[2], device=token.device)
        mask = torch.where(places <= position, 0.0, torch.finfo(self.model.dtype).min).to(self.model.dtype)
        output = self.model.model.language_model(
            input_ids=token,
            attention_mask=mask[None, None, None],
            position_ids=position[None],
            past_key_values=cache,
            use_cache=True,
            media=Media(None, sees, None, None, [_media(keys, values) for keys, values in pictures], 1),
        )
        return self.model.head(output.last_hidden_state[:, -1])


def _filled(cache: Cache) -> list[MediaLayer]:
    """The media layers of a cache, if there was a picture."""
    return [layer for layer in cache.layers if isinstance(layer, MediaLayer) and layer.is_initialized]


class _Decoder:
    """Steps of one answer."""

    def __init__(
        self, run: Callable[..., Tensor], buffers: "_Buffers", length: int, pictures: Pairs, sees: Tensor
    ) -> None:
        self._run, self._buffers, self.length = run, buffers, length
        self._pictures, self._sees = pictures, sees

    @torch.inference_mode()
    def __call__(self, token: Tensor) -> Tensor:
        """token [1, 1] -> logits [1, V]."""
        token = token.clone(memory_format=torch.contiguous_format)  # a slice would be another program
        position = torch.tensor([self.length], device=token.device)
        logits = self._run(token, position, self._buffers.text, self._pictures, self._sees)
        self.length += 1
        return logits


class _Buffers:
    """Room for the text of one answer, at addresses that stay."""

    def __init__(self, like: Sequence[tuple[Tensor, Tensor]], capacity: int) -> None:
        self.capacity = capacity
        self.text = [(self._make(keys), self._make(values)) for keys, values in like]

    def _make(self, like: Tensor) -> Tensor:
        buffer = like.new_zeros(1, like.shape[1], self.capacity, like.shape[3])
        if buffer.is_cuda:
            torch._dynamo.mark_static_address(buffer)
        else:
            torch._dynamo.mark_dynamic(buffer, 2)
        return buffer


class _Fixed(DynamicLayer):
    """A layer of text in a buffer, which is written at a position and read whole."""

    def __init__(self, keys: Tensor, values: Tensor, position: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.position, self.is_initialized = keys, values, position, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        self.keys.index_copy_(2, self.position, key_states)
        self.values.index_copy_(2, self.position, value_states)
        return self.keys, self.values


def _media(keys: Tensor, values: Tensor) -> MediaLayer:
    layer = MediaLayer()
    layer.keys, layer.values, layer.is_initialized = keys, values, True
    return layer
