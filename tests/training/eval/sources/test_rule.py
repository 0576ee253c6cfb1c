import json
from collections import Counter

import pytest

from training.data.heldout import heldout_part
from training.data.scenes import COLOURS
from training.eval.metrics import exact
from training.eval.sources import rule as module
from training.eval.sources.rule import RULES, rule


@pytest.fixture(autouse=True)
def small(unseen, fewer):
    fewer(module, EACH=6, SCENES=12, _POOL=4)


def test_all_examples_of_an_item_follow_its_rule():
    items = rule("dev", 0)
    assert Counter(item.query.kind for item in items) == dict.fromkeys(RULES, 6)
    for item in items:
        assert {example.kind for example in item.pool} == {item.query.kind} and len(item.pool) == 4
        assert item.query.pictures not in [example.pictures for example in item.pool]
        for example in (item.query, *item.pool):
            assert exact(example.answer, example) and example.pictures[0].is_file()
            assert example.question.removesuffix("?").lower() in COLOURS
            assert not example.choices or example.answer in example.choices


def test_answers_are_true_and_pictures_fit_every_rule():
    items = rule("dev", 0)
    folder = items[0].query.pictures[0].parent
    truth = {row["file"]: row for row in map(json.loads, (folder / "index.jsonl").read_text().splitlines())}
    numbers = Counter((row["number"], row["side"]) for row in truth.values())
    assert numbers == {(number, side): 2 for number in (1, 2, 3) for side in ("left", "right")}
    for item in items:
        for example in (item.query, *item.pool):
            row = truth[example.pictures[0].name]
            word = example.question.removesuffix("?").lower()
            expected = {
                "name": row["name"],
                "colour": row["colour"],
                "count": ("one", "two", "three")[row["number"] - 1],
                "position": row["side"],
                "yes/no": "yes" if word == row["colour"] else "no",
            }
            assert example.answer == expected[example.kind]


def test_names_may_be_said_of_several_things():
    query = next(item.query for item in rule("dev", 0) if item.query.kind == "name")
    assert exact(f"A {query.answer}.", query) and exact(f"{query.answer}s", query) and not exact("red", query)


def test_dev_and_test_show_different_things():
    shown = {}
    for which in ("dev", "test"):
        folder = rule(which, 0)[0].query.pictures[0].parent
        shown[which] = {json.loads(line)["name"] for line in (folder / "index.jsonl").read_text().splitlines()}
        assert {heldout_part(name) for name in shown[which]} == {which}
    assert shown["dev"] and shown["test"]


def test_the_same_seed_gives_the_same_items():
    assert rule("dev", 0) == rule("dev", 0)


def test_the_question_can_be_another():
    assert rule("dev", 0, question="Is it {colour}?")[0].query.question.startswith("Is it ")
