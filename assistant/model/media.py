"""Which text token sees which picture, and the cache layers that keep the pictures' keys and values.

Pictures of a row are counted from 1. A text token carries the number of the latest picture at or before it; 0 means
that it sees none. The count lives in the cache, so a prompt may arrive in any number of chunks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class MediaLayer(DynamicLayer):
    """Keys and values of all pictures so far for one gated block, [B, H, N * R, d].

    The first media layer of a cache also carries ``numbers`` [B, N]: the number of the picture in each slot, 0 for
    the padding of rows with fewer pictures.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers: Tensor | None = None

    def crop(self, tokens_to_remove: int) -> None:
        """Text is cropped, pictures stay."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Beams of one prompt share its pictures: nothing moves."""

    def reset(self) -> None:
        super().reset()
        self.numbers = None

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
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
        mask: bool [B, 1, T, N * R], or ``None`` where ``sees`` says it all.
        slot: [B], the only slot that a single token attends to, or ``None``.
        layers: cache layers of the blocks, or ``None`` without a cache.
        slots: number of slots, N.
    """

    latents: Tensor | None
    sees: Tensor
    mask: Tensor | None
    slot: Tensor | None
    layers: list[MediaLayer] | None
    slots: int


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
    if slots == 1:
        return Media(latents, sees, None, None, layers, slots)
    if attend == "latest" and length == 1:
        slot = (numbers == text).to(torch.uint8).argmax(dim=1)
        return Media(latents, sees, None, slot, layers, slots)
    text, numbers = text[:, :, None], numbers[:, None, :]
    visible = (numbers == text) if attend == "latest" else (numbers <= text) & (numbers > 0)
    visible = visible | ~sees[:, :, None]  # a row of -inf has no softmax; its output is dropped by `sees`
    return Media(latents, sees, visible[:, None], None, layers, slots)
