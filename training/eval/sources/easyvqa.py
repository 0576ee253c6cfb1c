"""easy-VQA, whose questions and pictures are somebody else's."""

from collections.abc import Iterable
from typing import Literal

from training.data.easyvqa import ANSWERS, Question, easyvqa_questions
from training.data.packages import Progress
from training.eval.items import Example, Item
from training.eval.selection import stable_rng

POOL = 512
_SHARE = 20  # one training picture in so many is for dev


def easyvqa(which: Literal["dev", "test"], seed: int, progress: Progress | None = None) -> list[Item]:
    """Questions about one shape: its form, its colour, whether something is there; the kind says which.

    ``"test"`` is the package's test split, 9,673 questions about 1,000 pictures; ``"dev"`` is all questions about one
    in 20 pictures of its training split. Demonstrations of both come from 512 questions about other training pictures.

    Raises:
        FetchError: the package cannot be brought here.
    """
    dev, others = training_questions(progress)
    asked = dev if which == "dev" else _examples(easyvqa_questions("test", progress))
    chosen = stable_rng("easyvqa", seed).choice(len(others), POOL, replace=False)
    pool = tuple(others[i] for i in sorted(chosen))
    return [Item(example, pool) for example in asked]


def training_questions(progress: Progress | None = None) -> tuple[list[Example], list[Example]]:
    """The training split in two, by picture: what dev asks, and all else, for demonstrations and baselines."""
    examples = _examples(easyvqa_questions("train", progress))
    dev = [example for example in examples if _is_dev(example)]
    return dev, [example for example in examples if not _is_dev(example)]


def _is_dev(example: Example) -> bool:
    return int(example.pictures[0].stem) % _SHARE == 0


def _examples(questions: Iterable[Question]) -> list[Example]:
    return [
        Example(
            question.id,
            (question.picture,),
            question.text,
            question.answer,
            choices=tuple(ANSWERS),
            kind=question.kind,
        )
        for question in questions
    ]
