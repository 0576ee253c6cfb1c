from collections import Counter

import pytest

from training.eval import metrics
from training.eval.sources import format as module
from training.eval.sources.format import FORMS, format


@pytest.fixture(autouse=True)
def small(unseen, fewer):
    fewer(module, EACH=5, _POOL=6)


def test_every_example_has_the_form_of_its_item_and_no_other():
    items = format("dev", 0)
    assert Counter(item.query.kind for item in items) == dict.fromkeys(FORMS, 5)
    for item in items:
        for example in (item.query, *item.pool):
            assert metrics.format(example.answer, item.query) and metrics.contains(example.answer, example)
            others = [other.query for other in items if other.query.kind != item.query.kind]
            assert not any(metrics.format(example.answer, other) for other in others)


def test_the_question_and_pictures_do_not_tell_the_form():
    items = format("dev", 0)
    assert {item.query.question for item in items} == {"What is this?"}
    for item in items:
        pictures = [example.pictures for example in (item.query, *item.pool)]
        assert len(set(pictures)) == 7 and all(file.is_file() for files in pictures for file in files)


def test_dev_and_test_show_different_things():
    def shown(which):
        return {file for item in format(which, 0) for example in (item.query, *item.pool) for file in example.pictures}

    assert shown("dev") and shown("test") and not shown("dev") & shown("test")


def test_the_same_seed_gives_the_same_items():
    assert format("dev", 0) == format("dev", 0) != format("dev", 1)
