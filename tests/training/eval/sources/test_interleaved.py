from collections import Counter

import pytest

from training.data import views
from training.eval.metrics import contains
from training.eval.sources import interleaved as module
from training.eval.sources.interleaved import interleaved, interleaved_binding

KINDS = ["alone", "first of 2", "second of 2", "first of 3", "second of 3", "last of 3"]
PLACE = {"alone": 0, "first": 0, "second": 1, "last": -1}


def place(query):
    return PLACE[query.kind.split()[0].rstrip(",")]


@pytest.mark.parametrize(("of", "pictures"), [("photographs", 24), ("drawings", None)])
def test_a_picture_is_asked_about_alone_and_in_every_place(unseen, photographs, of, pictures):
    items = interleaved("dev", 0, of)
    asked = {}
    for item in items:
        query = item.query
        asked.setdefault(query.pictures[place(query)], []).append(query.kind)
        assert len(query.pictures) == (1 if query.kind == "alone" else int(query.kind[-1]))
        assert ("picture" in query.question) and (query.kind == "alone" or query.kind.split()[0] in query.question)
        assert {example.kind for example in item.pool} == {query.kind}
    assert all(kinds == KINDS for kinds in (sorted(kinds, key=KINDS.index) for kinds in asked.values()))
    assert pictures is None or len(asked) == pictures


def test_the_name_of_another_picture_of_the_question_is_wrong(photographs):
    name_of = {item.query.pictures[0]: item.query for item in photographs("dev", 0)}
    for item in interleaved("dev", 0, "photographs"):
        right = [contains(name_of[file].answer, item.query) for file in item.query.pictures]
        assert right.count(True) == 1 and right.index(True) == place(item.query) % len(right)


def test_bound_names_belong_to_the_picture_in_the_place(built, fewer):
    fewer(module, _EPISODES=14)
    fewer(views, VIEWS=3)
    items = interleaved_binding("dev", 0)
    kinds = Counter(item.query.kind for item in items)
    assert kinds.total() == 28 and set(kinds) == {*KINDS[1:], "alone, 2 names", "alone, 3 names"}
    for item in items:
        named = {example.pictures[0].stem.split("-")[-3]: example.balance for example in item.pool}
        shown = [file.stem.split("-")[-2] for file in item.query.pictures]
        assert [named[thing] for thing in shown][place(item.query)] == item.query.accept[0]
        assert len(named) == len(item.query.choices) and {len(example.pictures) for example in item.pool} == {1}
    assert interleaved_binding("dev", 0) == items
