import math
from collections import Counter

import pytest

from training.data.questions import KINDS
from training.eval.sources import scenes as module
from training.eval.sources.scenes import scenes


@pytest.fixture(autouse=True)
def small(built, fewer):
    fewer(module, EACH=8, _POOL=3)


def test_every_kind_is_asked_and_no_answer_is_frequent():
    items = scenes("dev", 0)
    assert Counter(item.query.kind for item in items) == dict.fromkeys(KINDS, 8)
    for kind in KINDS:
        queries = [item.query for item in items if item.query.kind == kind]
        most = max(Counter(query.answer for query in queries).values())
        assert most <= math.ceil(8 / len(queries[0].choices))
        assert all(query.answer in query.choices for query in queries)


def test_demonstrations_are_other_scenes_of_the_kind():
    for item in scenes("dev", 0):
        assert {example.kind for example in item.pool} == {item.query.kind} and len(item.pool) == 3
        files = [file for example in (item.query, *item.pool) for file in example.pictures]
        assert len(set(files)) == 4 and all(file.is_file() for file in files)


def test_the_same_seed_gives_the_same_items():
    first = scenes("test", 0)
    assert scenes("test", 0) == first
    assert [item.query.question for item in scenes("test", 1)] != [item.query.question for item in first]
