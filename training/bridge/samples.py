"""What the bridge is taught: pictures or pseudo-photographs with a text of their name, drawn anew at every step.

A batch depends on the seed, the step and the process alone, so a resumed run sees what an uninterrupted one would.

Kinds of samples:
    caption, photo_caption   ``<image>a lion<|endofchunk|>``; trains four times faster than chat prompts
    chat, photo_chat         a question about the picture in the language model's chat format
``photo_`` kinds use pseudo-photographs of the tower's classes (:mod:`training.bridge.pseudo`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from assistant.model import FlamingoProcessor
from assistant.model.tokens import END_OF_CHUNK_TOKEN, IMAGE_TOKEN

from .config import Kind
from .features import FeatureCache
from .pseudo import push_towards_classes

KINDS = get_args(Kind)

QUESTIONS = (
    "What is in the picture?",
    "What is in the image?",
    "What is this?",
    "What do you see?",
    "What does the picture show?",
    "What is shown here?",
    "What can you see in this picture?",
    "What is in this photo?",
    "Name what is in the picture.",
    "Describe the picture.",
)


@dataclass(frozen=True)
class Name:
    """A way to name something, with its article, and how often it is used beside others."""

    text: str
    share: float = 1.0


@dataclass
class Batch:
    """One step of one process.

    Attributes:
        patches, logits: features of the pictures, [B, 1, P, Dv] and [B, 1, C].
        prefix: [S], tokens that stand before every row; no picture is seen there, so they carry no gradient.
        input_ids: [B, T], right-padded.
        labels: [B, T], -100 where nothing is predicted.
        names: [B], an id for each name, equal for equal names.
        captions: [B, L], tokens of the name alone, padded with -1.
    """

    patches: Tensor
    logits: Tensor
    prefix: Tensor
    input_ids: Tensor
    labels: Tensor
    names: Tensor
    captions: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(**{key: value.to(device) for key, value in vars(self).items()})


class Sampler:
    """Draws batches.

    Args:
        processor: its tokenizer and chat template make the prompts.
        cache: features of the pictures.
        picture_names: ways to name each picture.
        class_names: ways to name each class of the tower; classes without any are never drawn.
        classifier: weight [C, Dv] and bias [C] of the tower's classifier.
        seed: of everything drawn.
        patch_dropout: share of pseudo-photographs that show no patches, only the tower's class logits. Their patches
            are the part that is least like a photograph.
    """

    def __init__(
        self,
        processor: FlamingoProcessor,
        cache: FeatureCache,
        picture_names: Sequence[Sequence[Name]],
        class_names: Sequence[Sequence[Name]],
        classifier: tuple[Tensor, Tensor],
        seed: int,
        patch_dropout: float = 0.0,
    ) -> None:
        self.tokenizer = processor.tokenizer
        self.cache = cache
        self.picture_names = picture_names
        self.class_names = class_names
        self.classes = np.array([i for i, names in enumerate(class_names) if names])
        self.classifier = classifier
        self.seed = seed
        self.patch_dropout = patch_dropout
        self.mean_patch = cache.statistics(np.random.default_rng(seed))[0]
        self.prefix, self.between, self.after = _chat_pieces(processor)

    def draw(self, kind: str, size: int, step: int, rows: np.ndarray, process: int = 0) -> Batch:
        """A batch of one kind.

        Args:
            kind: one of :data:`KINDS`.
            size: B.
            step: of the run.
            rows: pictures that may be drawn.
            process: of a run on several processes.
        """
        rng = np.random.default_rng([self.seed, step, process, KINDS.index(kind)])
        photo = kind.startswith("photo_")
        rows = rng.choice(rows, size, replace=size > len(rows))
        variants = rng.integers(0, self.cache.patches.shape[1], size)
        patches, logits = self.cache.read(rows, variants)
        if photo:
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            classes = rng.choice(self.classes, size, replace=size > len(self.classes))
            maps, scores = push_towards_classes(
                patches[:, 0], torch.from_numpy(classes), *self.classifier, generator=generator
            )
            blind = torch.from_numpy(rng.random(size) < self.patch_dropout)
            maps[blind] = self.mean_patch
            patches, logits = maps.unsqueeze(1), scores.unsqueeze(1)
            names = [pick(self.class_names[c], rng) for c in classes]
        else:
            names = [pick(self.picture_names[r], rng) for r in rows]
        return self._text(patches, logits, names, rng, chat=kind.endswith("chat"))

    def _text(self, patches: Tensor, logits: Tensor, names: list[str], rng: np.random.Generator, chat: bool) -> Batch:
        encode = lambda text: self.tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
        prompts, answers = [], []
        for name in names:
            if chat:
                question = QUESTIONS[int(rng.integers(len(QUESTIONS)))]
                prompts.append(encode(IMAGE_TOKEN) + encode(question) + self.between)
                answers.append(encode(name[0].upper() + name[1:] + ".") + self.after)
            else:
                prompts.append(encode(IMAGE_TOKEN))
                answers.append(encode(name) + encode(END_OF_CHUNK_TOKEN))
        rows = [p + a for p, a in zip(prompts, answers, strict=True)]
        labels = [[-100] * len(p) + a for p, a in zip(prompts, answers, strict=True)]
        known: dict[str, int] = {}
        return Batch(
            patches=patches,
            logits=logits,
            prefix=torch.tensor(self.prefix if chat else [], dtype=torch.long),
            input_ids=_pad(rows, self.tokenizer.pad_token_id),
            labels=_pad(labels, -100),
            names=torch.tensor([known.setdefault(name, len(known)) for name in names]),
            captions=_pad([encode(" " + name) for name in names], -1),
        )


def pick(names: Sequence[Name], rng: np.random.Generator) -> str:
    """One of several names, by their shares."""
    shares = np.array([name.share for name in names])
    return names[int(rng.choice(len(names), p=shares / shares.sum()))].text


def _chat_pieces(processor: FlamingoProcessor) -> tuple[list[int], list[int], list[int]]:
    """The chat template around a user turn: tokens before its content, between it and the answer, and after that."""
    marker, answer = "QUESTION", "ANSWER"
    messages = [{"role": "user", "content": marker}, {"role": "assistant", "content": answer}]
    text = processor.apply_chat_template(messages)
    before, rest = text.split(marker)
    between, after = rest.split(answer)
    end = processor.tokenizer.eos_token
    after = after[: after.index(end) + len(end)] if end in after else after
    return tuple(processor.tokenizer.encode(part, add_special_tokens=False) for part in (before, between, after))


def _pad(rows: list[list[int]], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True, padding_value=value)
