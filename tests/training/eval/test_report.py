import json

import pytest

from training.eval.items import Example, Item
from training.eval.report import Prediction, Report, accuracy, chance


def example(id, answer, *choices, kind=""):
    return Example(id, (), "What?", answer, choices=choices, kind=kind)


def said(id, right, shots=0, seed=0, control="none", kind=""):
    return Prediction(id, kind, shots, seed, control, "What?", "a", "x", right, [], [])


ITEMS = [Item(example("1", "a", "a", "b", kind="x")), Item(example("2", "b", "a", "b", "c", "d", kind="y"))]


def test_every_control_shots_and_kind_has_its_row():
    rows = [said("1", True, kind="x"), said("2", False, kind="y"), said("1", False, control="swapped", kind="x")]
    found = {(row.control, row.shots, row.kind): row for row in accuracy(rows, ITEMS)}
    assert list(found) == [("none", 0, k) for k in ("all", "x", "y")] + [("swapped", 0, k) for k in ("all", "x")]
    assert found["none", 0, "all"].accuracy == 0.5
    assert (found["none", 0, "x"].right, found["none", 0, "y"].right) == (1, 0)
    assert [found["none", 0, kind].chance for kind in ("all", "x", "y")] == [0.375, 0.5, 0.25]
    assert found["swapped", 0, "all"].items == 1


def test_one_kind_needs_no_breakdown():
    [row] = accuracy([said("1", True)], [Item(example("1", "a"))])
    assert (row.kind, row.wilson) == ("all", pytest.approx((0.2065, 1), abs=1e-3))


def test_seeds_of_an_item_are_drawn_together():
    items = [Item(example(str(i), "a")) for i in range(10)]
    once = accuracy([said(str(i), i < 5) for i in range(10)], items)[0]
    thrice = accuracy([said(str(i), i < 5, seed=seed) for i in range(10) for seed in range(3)], items)[0]
    assert (thrice.items, thrice.asked, thrice.right) == (10, 30, 15)
    assert thrice.interval == once.interval, "asking the same again makes nothing more certain"
    assert thrice.wilson is None and once.wilson is not None


def test_an_item_that_is_asked_more_often_does_not_weigh_more():
    rows = [said("1", True), said("1", True, seed=1), said("2", False)]
    assert accuracy(rows, ITEMS)[0].accuracy == 0.5


def test_chance_is_a_guess_among_choices_or_the_most_frequent_answer():
    assert chance([example("1", "a", "a", "b"), example("2", "a", "a", "b", "c", "d")]) == 0.375
    assert chance([example("1", "yes"), example("2", "no"), example("3", "no")]) == pytest.approx(2 / 3)
    mixed = [example("1", "yes", "yes", "no"), example("2", "red"), example("3", "blue")]
    assert chance(mixed) == pytest.approx(0.5)
    kinds = [example("1", "red", kind="colour"), example("2", "two", kind="count")]
    assert chance(kinds) == 1, "each kind has a most frequent answer of its own"


def test_the_report_is_json_without_long_fractions():
    about = {"task": {"name": "t"}, "settings": {"set": "dev", "seeds": 1}, "model": {"name": "tiny"}, "items": "0f"}
    rows = [said("1", True), said("2", False, kind="y"), said("3", False)]
    report = Report(about, accuracy(rows, [*ITEMS, Item(example("3", "c"))]), rows, 1.5)
    tree = json.loads(json.dumps(report.to_tree()))
    assert (tree["task"], tree["set"], tree["model"]["name"], tree["items"]) == ("t", "dev", "tiny", "0f")
    assert tree["settings"] == {"set": "dev", "seeds": 1, "task": {"name": "t"}}
    assert tree["accuracy"][0]["accuracy"] == 0.3333
    assert report.find(0).right == 1
    with pytest.raises(KeyError):
        report.find(4)


def test_a_prediction_is_one_line():
    line = said("ä\n", True).to_line()
    assert line.count("\n") == 1 and line.endswith("\n") and "ä" in line
    assert Prediction(**json.loads(line)) == said("ä\n", True)
