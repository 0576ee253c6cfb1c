from collections import defaultdict

import pytest

from training.eval.sources import followups as module
from training.eval.sources.followups import followups


@pytest.fixture(autouse=True)
def small(built, fewer):
    fewer(module, SCENES=4)


def test_every_question_is_asked_as_each_turn():
    items = followups("dev", 0)
    assert len(items) == 4 * 3 * 3
    turns = defaultdict(dict)
    for item in items:
        query = item.query
        turn = int(query.kind[-1])
        assert len(query.history) == turn - 1 and not item.pool and query.pictures[0].is_file()
        turns[query.pictures, query.question][turn] = query
    for by_turn in turns.values():
        assert set(by_turn) == {1, 2, 3} and len({query.answer for query in by_turn.values()}) == 1


def test_the_turns_before_are_the_other_questions_with_right_answers():
    truth = {(item.query.pictures, item.query.question): item.query.answer for item in followups("dev", 0)}
    for item in followups("dev", 0):
        before = dict(item.query.history)
        assert item.query.question not in before and len(before) == len(item.query.history)
        assert all(truth[item.query.pictures, question] == answer for question, answer in before.items())


def test_the_same_seed_gives_the_same_items():
    assert followups("test", 0) == followups("test", 0)
