"""What answers get that never look at a picture: the most frequent one, and the best one for each wording."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from training.eval.items import Example
from training.eval.metrics import normalise


@dataclass(frozen=True)
class Blind:
    """Shares of right answers without pictures.

    Attributes:
        majority: always the most frequent answer.
        question_only: for every question the answer that it had most often; the most frequent one for a new question.
        by_kind: the latter, for each kind of question.
    """

    majority: float
    question_only: float
    by_kind: dict[str, float]


def question_only(learnt: Iterable[Example], asked: Sequence[Example]) -> Blind:
    """Learn answers from questions alone, and score them on others.

    Args:
        learnt: where the answers are counted; those of a training split, or of other items.
        asked: at least one.
    """
    overall: Counter[str] = Counter()
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    for example in learnt:
        overall[example.answer] += 1
        by_question[normalise(example.question)][example.answer] += 1
    [(usual, _)] = overall.most_common(1)
    right: dict[str, list[bool]] = defaultdict(list)
    for example in asked:
        counts = by_question.get(normalise(example.question))
        said = counts.most_common(1)[0][0] if counts else usual
        right[example.kind].append(said == example.answer)
    return Blind(
        sum(example.answer == usual for example in asked) / len(asked),
        sum(map(sum, right.values())) / len(asked),
        {kind: sum(hits) / len(hits) for kind, hits in sorted(right.items())},
    )
