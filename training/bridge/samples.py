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
    """Lessons of one kind, or of several.

    Attributes:
        kinds: [B], the kind of every row, its place in ``LESSON_KINDS``.
        patches, logits: features of the pictures of all rows, one after the other, [I, 1, P, Dv] and [I, 1, C].
        prefix: [S], tokens that stand before every row; no picture is seen there, so they carry no gradient.
        input_ids: [B, T], right-padded.
        labels: [B, T], -100 where nothing is predicted.
        names: [I], an id for each name, equal for equal names; -1 for pictures without one.
        captions: [I, L], tokens of the name alone, padded with -1.
    """

    kinds: Tensor
    patches: Tensor
    logits: Tensor
    prefix: Tensor
    input_ids: Tensor
    labels: Tensor
    names: Tensor
    captions: Tensor

    @property
    def answers(self) -> Tensor:
        """[B], how many answers of each row are to be learned."""
        learned = self.labels != -100
        return (learned[:, 1:] & ~learned[:, :-1]).sum(1)

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
        mean_patch: [Dv], the mean of all features.
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
        mean_patch: Tensor,
        classifier: tuple[Tensor, Tensor],
        seed: int,
        patch_dropout: float = 0.0,
    ) -> None:
        self.tokenizer = processor.tokenizer
        self.caches = {"picture": pictures, "photo": pictures, "scene": scenes}
        self.classifier = classifier
        self.seed = seed
        self.patch_dropout = patch_dropout
        self.mean_patch = mean_patch.half()
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
        return self._batch([self._row(kind, form, pools, rng) for _ in range(size)], form, pools, rng)

    def draw_step(
        self, lessons: dict[LessonKind, int], form: Form, pools: Pools, step: int, process: int = 0
    ) -> list[Batch]:
        """All lessons of a step, of every kind so many, in batches of rows of similar length; see :meth:`draw`."""
        rows = []
        for kind, size in lessons.items():
            rng = np.random.default_rng([self.seed, step, process, LESSON_KINDS.index(kind)])
            rows += [self._row(kind, form, pools, rng) for _ in range(size)]
        rng = np.random.default_rng([self.seed, step, process, len(LESSON_KINDS) + 1])
        return [self._batch(group, form, pools, rng) for group in of_similar_length(rows)]

    def _row(self, kind: LessonKind, form: Form, pools: Pools, rng: np.random.Generator) -> "Row":
        lesson = draw_lesson(kind, pools, rng)
        asks = kind not in _WITHOUT_QUESTION
        ids, labels = self._chat(lesson) if form == "chat" else self._plain(lesson, asks)
        return Row(kind, ids, labels, [picture for turn in lesson for picture in turn.shown])

    def _batch(self, rows: Sequence["Row"], form: Form, pools: Pools, rng: np.random.Generator) -> Batch:
        shown = [picture for row in rows for picture in row.shown]
        patches, logits = self._features(shown, pools, rng)
        names, captions = self._names(shown)
        length = padded_length(max(len(row.ids) for row in rows))
        return Batch(
            kinds=torch.tensor([LESSON_KINDS.index(row.kind) for row in rows]),
            patches=patches,
            logits=logits,
            prefix=torch.tensor(self.chat.before if form == "chat" else [], dtype=torch.long),
            input_ids=_pad([row.ids for row in rows], self.tokenizer.pad_token_id, length),
            labels=_pad([row.labels for row in rows], -100, length),
            names=names,
            captions=captions,
        )

    def draw_look(self, size: int, pools: Pools, step: int, process: int = 0) -> Look:
        """``size`` scenes and as many drawings and pseudo-photographs; other arguments as in :meth:`draw`."""
        rng = np.random.default_rng([self.seed, step, process, len(LESSON_KINDS)])
        named = [pools.any_photo(rng) if i % 2 else pools.any_picture(rng) for i in range(size)]
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
            maps[..., :width].float(), torch.from_numpy(classes), *self.classifier, generator=generator
        )
        extra = maps[..., width:]
        extra[torch.from_numpy(rng.random(len(maps)) < 0.5)] = self.mean_patch[width:]
        maps = torch.cat((pushed.to(extra.dtype), extra), dim=-1)
        maps[torch.from_numpy(rng.random(len(maps)) < self.patch_dropout)] = self.mean_patch
        return maps, scores


@dataclass(frozen=True)
class Row:
    """A lesson in tokens.

    Attributes:
        ids, labels: equally long; -100 where nothing is predicted.
        shown: its pictures, in order.
    """

    kind: LessonKind
    ids: list[int]
    labels: list[int]
    shown: list[Shown]


def of_similar_length(rows: Sequence[Row]) -> list[list[Row]]:
    """The shorter half of the rows, the shorter half of the others, and so on down to the longest few.

    So many rows are in a batch at every step: what a CPU prepares for a matrix of a new shape costs more than padding.
    """
    rows = sorted(rows, key=lambda row: len(row.ids))
    batches = []
    while rows:
        half = len(rows) // 2 if len(rows) > 5 else len(rows)
        batches.append(rows[:half])
        rows = rows[half:]
    return batches


def padded_length(length: int) -> int:
    """A little more than ``length``, so that few lengths occur."""
    step = 4 if length <= 32 else 8 if length <= 128 else 16
    return -(-length // step) * step


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


def _pad(rows: list[list[int]], value: int, length: int | None = None) -> Tensor:
    length = length or max(len(row) for row in rows)
    return torch.tensor([row + [value] * (length - len(row)) for row in rows])
