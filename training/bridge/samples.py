"""From lessons to tensors. A batch depends on the seed, the step and the process alone, so a resumed run sees what an
uninterrupted one would."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from assistant.model import FlamingoProcessor
from assistant.model.tokens import END_OF_CHUNK_TOKEN, IMAGE_TOKEN

from .features import FeatureCache
from .lessons import LESSON_KINDS, Lesson, LessonKind, draw_lesson
from .pools import Pools, Shown
from .pseudo import push_towards_classes
from .sight import Truth

Form = Literal["plain", "chat"]

_WITHOUT_QUESTION = ("naming", "photo_naming", "binding", "family")


@dataclass
class Batch:
    """Lessons of one kind.

    Attributes:
        patches, logits: features of the pictures of all rows, one after the other, [I, 1, P, Dv] and [I, 1, C].
        prefix: [S], tokens that stand before every row; no picture is seen there, so they carry no gradient.
        input_ids: [B, T], right-padded.
        labels: [B, T], -100 where nothing is predicted.
        names: [I], an id for each name, equal for equal names; -1 for pictures without one.
        captions: [I, L], tokens of the name alone, padded with -1.
    """

    patches: Tensor
    logits: Tensor
    prefix: Tensor
    input_ids: Tensor
    labels: Tensor
    names: Tensor
    captions: Tensor

    @property
    def answers(self) -> int:
        """How many answers are to be learned."""
        learned = self.labels != -100
        return int((learned[:, 1:] & ~learned[:, :-1]).sum())

    def to(self, device: torch.device) -> "Batch":
        return Batch(**{key: value.to(device) for key, value in vars(self).items()})


@dataclass
class Look:
    """Pictures that only the resampler sees.

    Attributes:
        patches, logits: features, [I, 1, P, Dv] and [I, 1, C]; pictures with a name first, then scenes.
        names, captions: of the pictures with a name, as in :class:`Batch`.
        truth: of the scenes.
    """

    patches: Tensor
    logits: Tensor
    names: Tensor
    captions: Tensor
    truth: Truth

    def to(self, device: torch.device) -> "Look":
        return Look(**{key: value.to(device) for key, value in vars(self).items()})


class Sampler:
    """Draws batches.

    Args:
        processor: of the model that learns.
        pictures, scenes: features.
        classifier: weight [C, width] and bias [C] of the tower's classifier.
        seed: of all drawing.
        patch_dropout: share of pseudo-photographs of which only the class logits are shown: of a pushed map, the map is
            what is least like a photograph.
    """

    def __init__(
        self,
        processor: FlamingoProcessor,
        pictures: FeatureCache,
        scenes: FeatureCache,
        classifier: tuple[Tensor, Tensor],
        seed: int,
        patch_dropout: float = 0.0,
    ) -> None:
        self.tokenizer = processor.tokenizer
        self.caches = {"picture": pictures, "photo": pictures, "scene": scenes}
        self.classifier = classifier
        self.seed = seed
        self.patch_dropout = patch_dropout
        self.mean_patch = pictures.statistics(np.random.default_rng(seed))[0]
        self.chat = _chat_pieces(processor)

    def draw(self, kind: LessonKind, form: Form, size: int, pools: Pools, step: int, process: int = 0) -> Batch:
        """A batch of one kind.

        Args:
            kind: of the lessons.
            form: ``"chat"`` is the language model's chat format, ``"plain"`` text with end-of-chunk tokens.
            size: lessons, B.
            pools: what they are drawn from.
            step: of the run.
            process: of a run on several processes.
        """
        rng = np.random.default_rng([self.seed, step, process, LESSON_KINDS.index(kind)])
        lessons = [draw_lesson(kind, pools, rng) for _ in range(size)]
        asks = form == "chat" or kind not in _WITHOUT_QUESTION
        rows = [self._chat(lesson) if form == "chat" else self._plain(lesson, asks) for lesson in lessons]
        shown = [picture for lesson in lessons for turn in lesson for picture in turn.shown]
        patches, logits = self._features(shown, pools, rng)
        names, captions = self._names(shown)
        return Batch(
            patches=patches,
            logits=logits,
            prefix=torch.tensor(self.chat.before if form == "chat" else [], dtype=torch.long),
            input_ids=_pad([ids for ids, _ in rows], self.tokenizer.pad_token_id),
            labels=_pad([labels for _, labels in rows], -100),
            names=names,
            captions=captions,
        )

    def draw_look(self, size: int, pools: Pools, step: int, process: int = 0) -> Look:
        """Drawings, pseudo-photographs and scenes, ``size`` of each; other arguments as in :meth:`draw`."""
        rng = np.random.default_rng([self.seed, step, process, len(LESSON_KINDS)])
        named = [pools.any_picture(rng) for _ in range(size)] + [pools.any_photo(rng) for _ in range(size)]
        scenes = rng.choice(pools.scenes, size)
        patches, logits = self._features([*named, *(Shown("scene", int(row)) for row in scenes)], pools, rng)
        return Look(patches, logits, *self._names(named), pools.truth[torch.from_numpy(scenes)])

    def _names(self, shown: Sequence[Shown]) -> tuple[Tensor, Tensor]:
        """An id for each name [I] and its tokens [I, L]; -1 where there is none."""
        known: dict[str, int] = {}
        ids = torch.tensor([known.setdefault(s.name, len(known)) if s.name else -1 for s in shown])
        return ids, _pad([self._encode(f" {s.name}") if s.name else [-1] for s in shown], -1)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _chat(self, lesson: Lesson) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        labels: list[int] = []
        for number, turn in enumerate(lesson):
            asked = self.chat.again if number else []
            asked = asked + self._encode(show_pictures(len(turn.shown)) + turn.question) + self.chat.between
            said = self._encode(turn.answer) + self.chat.end
            ids += asked + said
            labels += [-100] * len(asked) + (said if turn.learn else [-100] * len(said))
        return ids, labels

    def _plain(self, lesson: Lesson, asks: bool) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        labels: list[int] = []
        for turn in lesson:
            asked = self._encode(show_pictures(len(turn.shown)) + (turn.question if asks else ""))
            said = self._encode((" " if asks else "") + turn.answer + END_OF_CHUNK_TOKEN)
            ids += asked + said
            labels += [-100] * len(asked) + (said if turn.learn else [-100] * len(said))
        return ids, labels

    def _features(self, shown: Sequence[Shown], pools: Pools, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Patches [I, 1, P, Dv] and logits [I, 1, C]."""
        patches, logits = None, None
        for source in ("picture", "photo", "scene"):
            places = [i for i, picture in enumerate(shown) if picture.source == source]
            if not places:
                continue
            cache = self.caches[source]
            rows = np.array([shown[i].row for i in places])
            classes = rows
            if source == "photo":  # the maps of any drawings, to be pushed
                rows = rng.choice(pools.pictures, len(places))
            some, scores = cache.read(rows, rng.integers(0, cache.patches.shape[1], len(places)))
            if source == "photo":
                some, scores = self._pushed(some, classes, rng)
            if patches is None or logits is None:
                patches, logits = (
                    some.new_empty(len(shown), *some.shape[1:]),
                    scores.new_empty(len(shown), scores.shape[1]),
                )
            patches[places], logits[places] = some, scores
        assert patches is not None and logits is not None
        return patches.unsqueeze(1), logits.unsqueeze(1)

    def _pushed(self, maps: Tensor, classes: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Pseudo-photographs; the channels beside the classifier's stay those of the drawing, or say nothing."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        width = self.classifier[0].shape[1]
        pushed, scores = push_towards_classes(
            maps[..., :width], torch.from_numpy(classes), *self.classifier, generator=generator
        )
        extra = maps[..., width:]
        extra[torch.from_numpy(rng.random(len(maps)) < 0.5)] = self.mean_patch[width:]
        maps = torch.cat((pushed, extra), dim=-1)
        maps[torch.from_numpy(rng.random(len(maps)) < self.patch_dropout)] = self.mean_patch
        return maps, scores


@dataclass(frozen=True)
class ChatPieces:
    """Tokens of a chat around what is said: before the first question, between a question and its answer, at the end of
    an answer, and from there to the next question."""

    before: list[int]
    between: list[int]
    end: list[int]
    again: list[int]


def _chat_pieces(processor: FlamingoProcessor) -> ChatPieces:
    marks = ("QUESTION", "ANSWER", "FOLLOW-UP", "REPLY")
    messages = [{"role": ("user", "assistant")[i % 2], "content": mark} for i, mark in enumerate(marks)]
    text = processor.apply_chat_template(messages)
    pieces = []
    for mark in marks[:3]:
        piece, text = text.split(mark)
        pieces.append(piece)
    before, between, again = pieces
    end = processor.tokenizer.eos_token
    end = again[: again.index(end) + len(end)] if end in again else ""
    again = again.removeprefix(end)
    return ChatPieces(*(processor.tokenizer.encode(p, add_special_tokens=False) for p in (before, between, end, again)))


def show_pictures(number: int) -> str:
    """Pictures before a question, written as the processor's chat template does: several are numbered."""
    if number < 2:
        return IMAGE_TOKEN * number
    return "".join(f"Picture {i}: {IMAGE_TOKEN}\n" for i in range(1, number + 1))


def _pad(rows: list[list[int]], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True, padding_value=value)
