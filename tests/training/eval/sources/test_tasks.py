"""The tasks as they are shipped can be run with every number of shots that they name."""

import numpy as np
import pytest

from training.eval.selection import choose
from training.eval.sources import binding, followups, format, interleaved, load_items, rule, scenes
from training.eval.task import load_task

NAMES = (
    "binding binding5 categories categories_total followups format interleaved interleaved_binding rule scenes".split()
)


@pytest.fixture(autouse=True)
def small(unseen, photographs, fewer):
    fewer(binding, ITEMS=4)
    fewer(interleaved, _EPISODES=4)
    fewer(followups, SCENES=2)
    fewer(format, EACH=2, _POOL=8)
    fewer(rule, EACH=2, SCENES=24, _POOL=8)
    fewer(scenes, EACH=4, _POOL=2)


@pytest.mark.parametrize("name", NAMES)
def test_the_pools_hold_enough(name):
    task = load_task(name)
    items = load_items(task.source, "dev", task.seed, task.source_args)
    assert len({item.query.id for item in items}) == len(items)
    for item in items:
        demos = choose(item, max(task.shots), task.select, task.shots_mean == "per_answer", np.random.default_rng(0))
        groups = {example.balance for example in item.pool}
        assert len(demos) == max(task.shots) * (len(groups) if task.shots_mean == "per_answer" else 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_right_answer_as_the_examples_have_it_is_right(name):
    from training.eval.metrics import METRICS

    task = load_task(name)
    for item in load_items(task.source, "dev", task.seed, task.source_args):
        assert METRICS[task.metric](item.query.answer, item.query)
