"""Groups of animals on photographs: the examples give two groups made-up names, and the query is another animal."""

from dataclasses import replace
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Literal

import numpy as np

from training.data.made_up import different_names, evaluation_names
from training.data.packages import Progress
from training.data.rows import read_table
from training.eval.items import Example, Item
from training.eval.naming import naming
from training.eval.selection import stable_rng

_TABLE = Path(__file__).parents[1] / "categories.tsv"


def categories(
    which: Literal["dev", "test"],
    seed: int,
    each: int = 4,
    repeats: int = 4,
    question: str = "What is this?",
    answer: str = "A {name}.",
    progress: Progress | None = None,
) -> list[Item]:
    """Tell to which of two groups an animal belongs, where the groups have names that say nothing.

    Every photograph is asked about beside every other group. A pool holds equally many photographs of both groups, as
    many as there are, so that neither name is likelier; the photograph of the query is never among them. No photograph
    is in both sets.

    Args:
        each: fewest examples of each group in a pool; pairs of groups that have fewer are left out.
        repeats: how often a photograph is asked about beside a group, with other names.
        question: of the examples and of the query.
        answer: of the examples; ``{name}`` stands for the made-up name of a group.

    Raises:
        FetchError: the photographs cannot be brought here.
    """
    group_of = dict(read_table(_TABLE))
    groups: dict[str, list[Example]] = {}
    for item in naming(which, seed, progress):
        groups.setdefault(group_of[item.query.id], []).append(item.query)
    items = []
    for asked, other in permutations(groups, 2):
        for query in groups[asked]:
            rest = [photograph for photograph in groups[asked] if photograph is not query]
            if min(len(rest), len(groups[other])) < each:
                continue
            for number in range(repeats):
                rng = stable_rng("categories", which, seed, query.id, other, number)
                names = different_names(evaluation_names(which), 2, rng)
                mine, others = (
                    partial(_labelled, question=question, answer=answer, name=name, choices=tuple(sorted(names)))
                    for name in names
                )
                size = min(len(rest), len(groups[other]))
                pool = [mine(photograph) for photograph in _some(rest, size, rng)]
                pool += [others(photograph) for photograph in _some(groups[other], size, rng)]
                asking = replace(mine(query), id=f"{query.id}-{other}-{number}", kind=asked)
                items.append(Item(asking, tuple(pool)))
    return items


def _labelled(photograph: Example, question: str, answer: str, name: str, choices: tuple[str, ...]) -> Example:
    return replace(
        photograph, question=question, answer=answer.format(name=name), accept=(name,), choices=choices, group=name
    )


def _some(photographs: list[Example], count: int, rng: np.random.Generator) -> list[Example]:
    return [photographs[i] for i in rng.choice(len(photographs), count, replace=False)]
