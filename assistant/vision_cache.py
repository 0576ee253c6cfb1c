"""What the vision encoder and the resampler make of pictures, kept by content."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from .images import Picture
from .model import FlamingoForConditionalGeneration, FlamingoProcessor

_AT_ONCE = 8  # pictures that go through the tower together


class VisionCache:
    """Latents of pictures, the least recently used dropped first. Safe to share between threads.

    Args:
        max_bytes: that all latents together may hold; 0 keeps nothing.
    """

    def __init__(self, model: FlamingoForConditionalGeneration, processor: FlamingoProcessor, max_bytes: int) -> None:
        self.model, self.processor, self.max_bytes = model, processor, max_bytes
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def latents(self, pictures: Sequence[Picture]) -> Tensor:
        """[I, R, W], each picture encoded once however often it is shown."""
        with self._lock:
            known = {p.digest: self._kept[p.digest] for p in pictures if p.digest in self._kept}
        new = list({p.digest: p for p in pictures if p.digest not in known}.values())
        for start in range(0, len(new), _AT_ONCE):
            some = new[start : start + _AT_ONCE]
            known |= zip((p.digest for p in some), self._encode(some), strict=True)
        with self._lock:
            for picture in pictures:
                self._kept[picture.digest] = known[picture.digest]
                self._kept.move_to_end(picture.digest)
            while sum(latents.nbytes for latents in self._kept.values()) > self.max_bytes:
                self._kept.popitem(last=False)
        return torch.stack([known[picture.digest] for picture in pictures])

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()

    @torch.inference_mode()
    def _encode(self, pictures: Sequence[Picture]) -> list[Tensor]:
        images = [picture.image for picture in pictures]
        pixels = self.processor.image_processor(images, return_tensors="pt")["pixel_values"]
        latents = self.model.model.resampler(*self.model.model.image_features(pixels.to(self.model.device)))
        return [one.clone() for one in latents]  # a view would hold on to all of them
