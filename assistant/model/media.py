"""Which text token sees which picture, and the cache layers that keep the pictures' keys and values.

Pictures of a row are counted from 1. A text token carries the number of the latest picture at or before it; 0 means
that it sees none. The count lives in the cache, so a prompt may arrive in any number of chunks.

With one exception: where ``skip_blocks_without_media`` is false, the feed-forward of the blocks runs also on text that
sees no picture, but only in a call that brings a picture to any row, or follows one that did. Until then the language
model runs bare. So there, text before the first picture has to come in one call with it to be what it is in one go, and
a row without pictures is not the same beside one with pictures as it is alone.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers.cache_utils import Cache
from transformers.utils.generic import is_flash_attention_requested

from .attention import Allowed, Segments, Watch
from .growing_cache import GrowingLayer


class MediaLayer(GrowingLayer):
    """Keys and values of all pictures so far for one gated block, [B, H, N * R, d].

    The first media layer of a cache also carries ``numbers`` [B, N]: the number of the picture in each slot, 0 for
    the padding of rows with fewer pictures; and ``in_order``: there is one row, and its slots are its pictures.
    """

    def __init__(self, room: int = 0) -> None:
        super().__init__(room)
        self.numbers: Tensor | None = None
        self.in_order = True

    def crop(self, tokens_to_remove: int) -> None:
        """Text is cropped, pictures stay."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Beams of one prompt share its pictures: nothing moves."""

    def reset(self) -> None:
        super().reset()
        self.numbers, self.in_order = None, True

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.in_order = False
        if self.numbers is not None:
            self.numbers = self.numbers.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        if self.numbers is not None:
            self.numbers = self.numbers[indices]


def add_media_layers(cache: Cache, text_layers: int, blocks: int) -> list[MediaLayer]:
    """The media layers of a cache, appended after its text layers at the first call."""
    while len(cache.layers) < text_layers:  # a cache made without a configuration grows lazily
        cache.layers.append(cache.layer_class_to_replicate())
    while len(cache.layers) < text_layers + blocks:
        cache.layers.append(MediaLayer())
    return cache.layers[text_layers : text_layers + blocks]


@dataclass
class Media:
    """What the gated blocks of one forward pass need.

    Attributes:
        latents: [B, N', R, W], the pictures that are new in this call, or ``None``.
        sees: bool [B, T], whether a token sees any picture.
        mask: bool [B, 1, T, N - first], which slots a token sees, or ``None`` where ``sees`` says it all.
        slot: [B], the only slot that a single token attends to, or ``None``.
        layers: cache layers of the blocks, or ``None`` without a cache.
        slots: number of slots, N.
        first: of them that any token sees; those before it are not looked at.
        ends: [B, N - first + 1], how many tokens of a row come before its first picture, and then how many up to the
            last one that sees a slot; ``None`` where there is no mask, or a token may see more than one slot.
        watch: sees the weights of every gated block, [B, H, T, (N - first) * R].
    """

    latents: Tensor | None
    sees: Tensor
    mask: Tensor | None
    slot: Tensor | None
    layers: list[MediaLayer] | None
    slots: int
    ends: Tensor | None = None
    first: int = 0
    watch: Watch | None = None
    _allowed: Allowed | None = field(default=None, init=False, repr=False)

    def allowed(self, implementation: str) -> Allowed | None:
        """Which latents a token attends to, as an attention implementation takes it; ``None`` for all of them.

        It is made once, for all blocks have one implementation. Flash attention takes segments of text and latents.
        Where a token sees several pictures they would overlap, and the latents of a picture would have to be copied for
        every picture after it: there it is a mask, as for eager attention and SDPA.
        """
        if self.mask is not None and self._allowed is None:
            if self.ends is not None and is_flash_attention_requested(
                requested_attention_implementation=implementation
            ):
                self._allowed = self._segments(self.ends)
            elif implementation == "flex_attention":
                self._allowed = self._block_mask(self.mask)
            else:
                self._allowed = self.mask.repeat_interleave(self._latents_per_slot, dim=-1)
        return self._allowed

    @property
    def _latents_per_slot(self) -> int:
        if self.latents is not None:
            return self.latents.shape[2]
        assert self.layers is not None and self.layers[0].keys is not None
        return self.layers[0].keys.shape[2] // self.slots

    @property
    def _seen_slots(self) -> int:
        return self.slots - self.first

    def visible(self, x: Tensor) -> Tensor:
        """What any token sees of keys or values [B, H, N * R, d]."""
        return x[:, :, self.first * self._latents_per_slot :] if self.first else x

    def _segments(self, ends: Tensor) -> Segments:
        """A segment for each slot of each row, before which comes one for the tokens that see none, without latents.

        Every length that the host needs to know is one of shapes, so that it does not wait for the device.
        """
        (batch, length), latents = self.sees.shape, self._latents_per_slot
        rows = torch.arange(batch, device=ends.device)[:, None]
        keys = torch.arange(self._seen_slots + 1, device=ends.device) * latents
        queries, keys = ends + rows * length, keys + rows * self._seen_slots * latents
        starts = [F.pad(x.flatten(), (1, 0)).to(torch.int32) for x in (queries, keys)]
        return Segments(starts[0], starts[1], length, latents)

    def _block_mask(self, mask: Tensor) -> BlockMask:
        latents = self._latents_per_slot

        def sees_latent(row: Tensor, head: Tensor, token: Tensor, latent: Tensor) -> Tensor:
            return mask[row, 0, token, latent // latents]

        return create_block_mask(
            sees_latent, len(mask), None, mask.shape[2], self._seen_slots * latents, device=mask.device
        )


def picture_counts(input_ids: Tensor, image_token_id: int) -> Tensor:
    """Number of picture markers per row, [B]."""
    return (input_ids == image_token_id).sum(dim=1)


def lay_out(
    input_ids: Tensor,
    image_token_id: int,
    latents: Tensor | None,
    layers: list[MediaLayer] | None,
    attend: str,
) -> Media | None:
    """Number the pictures, then say what every token sees.

    Args:
        input_ids: [B, T], the tokens of this call.
        latents: [B, N', R, W], the new pictures, left-aligned in each row; ``None`` where there is none.
        layers: the media layers of the cache, whose first one remembers earlier pictures.
        attend: ``"latest"`` or ``"all_previous"``.

    Returns:
        ``None`` if there is no picture at all, so that the language model runs bare.
    """
    numbers = layers[0].numbers if layers else None
    if latents is None and numbers is None:
        return None
    batch, length = input_ids.shape
    seen = input_ids.new_zeros(batch) if numbers is None else numbers.amax(dim=1)
    text = seen[:, None].expand(-1, length)
    if latents is not None:
        marker = input_ids == image_token_id
        text = text + marker.cumsum(dim=1)
        order = torch.arange(1, latents.shape[1] + 1, device=input_ids.device)
        new = torch.where(order <= marker.sum(dim=1, keepdim=True), seen[:, None] + order, 0)
        numbers = new if numbers is None else torch.cat((numbers, new), dim=1)
        if layers:
            layers[0].numbers = numbers
    assert numbers is not None
    sees = text > 0
    slots = numbers.shape[1]
    first = 0
    if layers:
        layers[0].in_order &= batch == 1
        if layers[0].in_order and attend == "latest":  # the picture before, and those that come now
            come = 0 if latents is None or length == 1 else latents.shape[1]
            first = max(slots - come - 1, 0)
            numbers = numbers[:, first:]
    if slots - first == 1:
        return Media(latents, sees, None, None, layers, slots, first=first)
    if attend == "latest" and length == 1:
        slot = (numbers == text).to(torch.uint8).argmax(dim=1)
        return Media(latents, sees, None, slot, layers, slots)
    ends = None
    if attend == "latest":  # numbers rise along a row, but for padding, which ends where the slot before it does
        ends = torch.searchsorted(text.contiguous(), F.pad(numbers, (1, 0)), right=True).cummax(dim=1).values
    text, numbers = text[:, :, None], numbers[:, None, :]
    visible = (numbers == text) if attend == "latest" else (numbers <= text) & (numbers > 0)
    visible = visible | ~sees[:, :, None]  # a row of -inf has no softmax; its output is dropped by `sees`
    return Media(latents, sees, visible[:, None], None, layers, slots, ends, first)
