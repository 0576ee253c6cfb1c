"""Where an answer looked: the attention of its words to a picture, laid over the picture.

A word attends to latents, and the latents attended to patches. The first are the weights of the gated blocks at the
word itself, the mean over heads and blocks. The second is attention rollout (Abnar and Zuidema, arXiv:2005.00928,
section 3) through the layers of the resampler, the mean over heads. It takes a layer's output as the latent that it was
and what that attended to, in equal parts; here their parts are those of their norms (as in Kobayashi et al.,
arXiv:2109.07152), because that agrees better with what a latent loses where a patch is covered.

What is no patch counts as the patches that it was made of: the mean of the patches as all of them evenly, and a latent
that starts from a cell of a grid as the patches of that cell. What was made of no patches in particular says nothing
about a place and is left out, so that the rest counts for all: the tower's class token and the start of other latents.

Attention says where a word reads, and not why it was chosen: it is read at the word, once it has been said.
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .decoding import Writer
from .errors import InputError
from .images import Picture
from .model import FlamingoForConditionalGeneration, FlamingoProcessor
from .model.media import lay_out
from .prompt import Prompt
from .vision_cache import VisionCache

_ALONE = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # written without spaces: every sign is a word
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+(?:['’-][^\W{_ALONE}]+)*|[^\w\s]+")
_COLOURS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))  # from cold to hot


@dataclass(frozen=True)
class Word:
    """A word of an answer, or what stands between words: its tokens are ``said[start:end]``."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class View:
    """What of a picture a vision tower sees.

    Attributes:
        box: left, top, right, bottom in pixels of the picture; beyond its edges where it was padded.
        size: width and height that the box has before the tower.
        grid: rows and columns of patches.
        stride: pixels from one patch to the next before the tower; the patches lie in the middle.
    """

    box: tuple[float, float, float, float]
    size: tuple[int, int]
    grid: tuple[int, int]
    stride: int


@dataclass(frozen=True)
class Looked:
    """Where the words of an answer looked.

    Attributes:
        picture: the latest one before the answer.
        words: of the answer, in order.
        tokens: float32 [tokens, h, w], weights of the patches for each token of the answer; each sums to 1.
        view: what of the picture the patches are.
    """

    picture: Picture
    words: tuple[Word, ...]
    tokens: np.ndarray
    view: View

    def weights(self, word: int | None = None) -> np.ndarray:
        """Weights of the patches [h, w], which sum to 1: the mean over the tokens of a word, or of all words.

        Raises:
            IndexError: there is no such word.
        """
        chosen = self.words if word is None else (self.words[word],)
        read = sorted({token for one in chosen for token in range(one.start, one.end)})
        return self.tokens[read].mean(0)

    def map(self, word: int | None = None) -> np.ndarray:
        """The same for every pixel of the picture, float32 [height, width], the largest is 1.

        Between the middles of patches it is bilinear; what the tower does not see is 0. Errors as in :meth:`weights`.
        """
        left, top, right, bottom = self.view.box
        (width, height), (rows, columns) = self.view.size, self.view.grid
        down = _spread(self.picture.image.height, top, bottom, height, rows, self.view.stride)
        across = _spread(self.picture.image.width, left, right, width, columns, self.view.stride)
        spread = down @ self.weights(word) @ across.T
        return spread / spread.max()


def look(
    model: FlamingoForConditionalGeneration, processor: FlamingoProcessor, prompt: Prompt, said: Sequence[int]
) -> Looked:
    """Read a prompt and its answer once more, and see where the answer looked.

    The model stays as it is, and others may use it meanwhile.

    Args:
        model: in evaluation mode.
        processor: of the model.
        prompt: has a picture.
        said: tokens of the answer.

    Raises:
        InputError: there is no picture before the answer, or no word in it.
    """
    if not prompt.pictures:
        raise InputError("there is no picture before the answer: ask about one to see where the answer looked")
    words = find_words(processor.tokenizer, said)
    if not words:
        raise InputError("the answer has no words: nothing in it looked at the picture")
    picture = prompt.pictures[-1]
    pixels = processor.image_processor([picture.image], return_tensors="pt")["pixel_values"].to(model.device)
    with torch.inference_mode():
        latents, patches = _resample(model, pixels)
        if earlier := prompt.pictures[:-1]:
            latents = torch.cat((VisionCache(model, processor, 0).latents(earlier), latents))
        attended = _attend(model, [*prompt.ids, *said], latents, len(said))
        weights = attended @ patches
    view = _view(model.config.vision_config, processor.image_processor, picture.image.size, pixels, patches.shape[1])
    weights = (weights / weights.sum(1, keepdim=True)).unflatten(1, view.grid)
    return Looked(picture, words, weights.cpu().numpy(), view)


def heat_map(image: Image.Image, weights: np.ndarray, alpha: float = 0.55) -> Image.Image:
    """Lay weights over a picture: dark where they are small, bright where they are large.

    Args:
        image: of any mode.
        weights: [height, width] of the picture, from 0 to 1.
        alpha: how much of the picture the colours cover, from 0 to 1.

    Returns:
        A new picture, RGB.

    Raises:
        ValueError: the weights are of another size than the picture.
    """
    if weights.shape != (image.height, image.width):
        raise ValueError(f"the weights are {weights.shape}, and the picture {(image.height, image.width)}")
    steps = np.linspace(0, len(_COLOURS) - 1, 256)
    colours = np.stack([np.interp(steps, range(len(_COLOURS)), shade) for shade in zip(*_COLOURS, strict=True)], 1)
    heat = colours.round().astype(np.uint8)[(weights.clip(0, 1) * 255).round().astype(np.uint8)]
    return Image.blend(image.convert("RGB"), Image.fromarray(heat), alpha)


def find_words(tokenizer: PreTrainedTokenizerBase, said: Sequence[int]) -> tuple[Word, ...]:
    """The words of an answer; a token that has to do with two words belongs to both."""
    writer = Writer(tokenizer)
    ends: list[int] = []  # of pieces of text
    tokens: list[tuple[int, int]] = []  # of each piece
    first = 0
    for number, token in enumerate(said, start=1):
        if writer.push(token):
            ends.append(len(writer.text))
            tokens.append((first, number))
            first = number
    if writer.end():
        ends.append(len(writer.text))
        tokens.append((first, len(said)))
    return tuple(
        Word(found[0], tokens[bisect_right(ends, found.start())][0], tokens[bisect_left(ends, found.end())][1])
        for found in _WORD.finditer(writer.text)
    )


def _attend(model: FlamingoForConditionalGeneration, ids: Sequence[int], latents: Tensor, count: int) -> Tensor:
    """How much the last tokens attend to the latents of the last picture, the mean over heads and gated blocks.

    Args:
        ids: [T].
        latents: [I, R, W] of all pictures.
        count: of tokens.

    Returns:
        float32 [count, R], rows sum to 1.
    """
    blocks: list[Tensor] = []
    row = torch.tensor([ids], device=model.device)
    given = model.model.hand_out(latents, row)
    media = lay_out(row, model.config.image_token_id, given, None, model.config.attend)
    assert media is not None
    # Where a token sees earlier pictures as well, what it gives to this one counts for all.
    media.watch = lambda w: blocks.append(w[0, :, -count:, -latents.shape[1] :].float().mean(0).to(latents.device))
    model.model.language_model(input_ids=row, use_cache=False, media=media)
    attended = torch.stack(blocks).mean(0)
    return attended / attended.sum(1, keepdim=True)


def _resample(model: FlamingoForConditionalGeneration, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Latents [1, R, W] of a picture [1, 3, h, w], and how much of them every patch is, float32 [R, P]."""
    layers: list[tuple[Tensor, Tensor]] = []

    def watch(weights: Tensor, before: Tensor, added: Tensor) -> None:
        kept, new = (x[0].float().norm(dim=-1, keepdim=True) for x in (before, added))
        layers.append((weights[0].float().mean(0), kept / (kept + new)))

    resampler = model.model.resampler
    features, logits = model.model.image_features(pixels)
    latents = resampler(features, logits, watch)
    count = features.shape[2]
    made_of = torch.eye(count, device=latents.device)
    if resampler.pool is not None:
        made_of = torch.cat((made_of.mean(0, keepdim=True), made_of))
    if resampler.class_embedding is not None:
        made_of = torch.cat((made_of.new_zeros(1, count), made_of))
    start = made_of.new_zeros(latents.shape[1], count)
    if resampler.grid:
        side = math.isqrt(count)
        maps = torch.eye(count, device=latents.device).unflatten(1, (side, side))
        start[: resampler.grid**2] = F.adaptive_avg_pool2d(maps, resampler.grid).flatten(1).T
    return latents, roll_out(layers, made_of, start)


def roll_out(layers: Sequence[tuple[Tensor, Tensor]], made_of: Tensor, start: Tensor) -> Tensor:
    """How much of every latent each patch is, after all layers.

    Args:
        layers: attention of latents to M tokens of the picture and to latents, [R, M + R], and how much of a latent
            stays, [R, 1].
        made_of: [M, P], how much of a token each patch is.
        start: [R, P], the same of the latents before the first layer.

    Returns:
        [R, P].
    """
    for weights, kept in layers:
        start = kept * start + (1 - kept) * (weights @ torch.cat((made_of, start)))
    return start


def _view(tower: Any, image_processor: Any, picture: tuple[int, int], pixels: Tensor, patches: int) -> View:
    """What the tower sees of a picture (width, height) as ``pixels`` [1, 3, h, w].

    Image processors resize a picture to a given size, or its shorter side to a length, and may cut out the middle then.
    """
    height, width = pixels.shape[-2:]
    rows = round(math.sqrt(patches * height / width))
    size = image_processor.size if image_processor.do_resize else {}
    if shortest := size.get("shortest_edge"):
        scales = (shortest / min(picture),) * 2
    elif size.get("width") and size.get("height"):
        scales = (size["width"] / picture[0], size["height"] / picture[1])
    else:
        scales = (1.0, 1.0)
    halves = [seen / scale / 2 for seen, scale in zip((width, height), scales, strict=True)]
    middle = [side / 2 for side in picture]
    box = (middle[0] - halves[0], middle[1] - halves[1], middle[0] + halves[0], middle[1] + halves[1])
    return View(box, (width, height), (rows, patches // rows), _stride(tower, height, rows))


def _stride(tower: Any, side: int, cells: int) -> int:
    """Pixels from one patch to the next: what towers cut, or else what convolutions make by halving a padded map."""
    patch = getattr(tower, "patch_size", None)
    if isinstance(patch, int) and side // patch == cells:
        return patch
    return 2 ** math.ceil(math.log2(side / cells))


def _spread(pixels: int, start: float, end: float, side: int, cells: int, stride: int) -> np.ndarray:
    """How much of each patch is in each pixel of a row or a column, float32 [pixels, cells].

    Args:
        pixels: of the picture.
        start, end: of them, what the tower sees as ``side`` pixels.
        cells: patches, in the middle of these, ``stride`` from one to the next.
    """
    seen = (np.arange(pixels) + 0.5 - start) / (end - start) * side
    place = (seen - (side - (cells - 1) * stride) / 2) / stride
    nearness = 1 - np.abs(place.clip(0, cells - 1)[:, None] - np.arange(cells))
    return (nearness.clip(0) * ((seen > 0) & (seen < side))[:, None]).astype(np.float32)
