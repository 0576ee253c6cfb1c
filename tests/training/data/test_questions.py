from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.questions import KINDS, LAYOUTS_OF, NUMBERS, ask, facts
from training.data.scenes import COLOURS, LAYOUTS, Thing


def thing(colour, x, y, size=0.2, kind="owl"):
    """A thing by its middle."""
    return Thing(kind, "an", kind, colour, (x - size / 2, y - size / 2, x + size / 2, y + size / 2))


def asked(kind, *things, times=40):
    """What is asked about a scene, many times."""
    return [ask(kind, things, np.random.default_rng(seed)) for seed in range(times)]


def answers(kind, *things):
    return {(a.question, a.answer) for a in asked(kind, *things)}


RED_LEFT = thing("red", 0.2, 0.3), thing("blue", 0.8, 0.7, kind="kite")


def test_things_are_counted():
    for number in range(1, 6):
        scene = [thing("red", 0.1 + 0.2 * i, 0.5, 0.1) for i in range(number)]
        assert {answer for _, answer in answers("count", *scene)} == {NUMBERS[number - 1]}
    assert asked("count", *RED_LEFT) == [None] * 40  # two kinds of thing


def test_the_colour_is_told():
    assert {answer for _, answer in answers("colour", thing("orange", 0.2, 0.2))} == {"orange"}
    assert {answer for _, answer in answers("colour", thing("red", 0.2, 0.2), thing("red", 0.8, 0.8))} == {"red"}
    assert asked("colour", *RED_LEFT) == [None] * 40


@pytest.mark.parametrize(
    ("place", "answer"),
    [
        ((0.2, 0.3), "top left"),
        ((0.8, 0.3), "top right"),
        ((0.2, 0.7), "bottom left"),
        ((0.8, 0.7), "bottom right"),
    ],
)
def test_a_corner_is_told(place, answer):
    assert {a for _, a in answers("quadrant", thing("red", *place))} == {answer}


@pytest.mark.parametrize("place", [(0.5, 0.2), (0.2, 0.54), (0.46, 0.9)])
def test_in_the_middle_there_is_no_corner(place):
    assert asked("quadrant", thing("red", *place)) == [None] * 40


def test_of_several_things_the_corner_of_one_is_told():
    told = answers("quadrant", *RED_LEFT)
    assert {("red" in q, "blue" in q, a) for q, a in told} == {(True, False, "top left"), (False, True, "bottom right")}
    assert asked("quadrant", thing("red", 0.2, 0.3), thing("red", 0.8, 0.7)) == [None] * 40


def test_two_things_are_compared_in_both_orders():
    told = answers("left_right", *RED_LEFT)
    assert {(q.split()[2], a) for q, a in told} == {("red", "left"), ("blue", "right")}
    told = answers("above_below", *RED_LEFT)
    assert {(q.split()[2], a) for q, a in told} == {("red", "above"), ("blue", "below")}
    told = answers("size", thing("red", 0.2, 0.2, 0.3), thing("grey", 0.7, 0.7, 0.1, "kite"))
    assert {(q.split()[2], a) for q, a in told} == {("red", "bigger"), ("grey", "smaller")}


@pytest.mark.parametrize(
    ("kind", "second"),
    [
        ("left_right", thing("blue", 0.3, 0.9)),  # hardly further right
        ("above_below", thing("blue", 0.9, 0.4)),
        ("size", thing("blue", 0.8, 0.8, 0.26)),
        ("left_right", thing("red", 0.9, 0.3)),  # "the red one" would be both
        ("above_below", thing("red", 0.2, 0.9)),
        ("size", thing("red", 0.8, 0.8, 0.4)),
    ],
)
def test_where_the_answer_is_not_clear_nothing_is_asked(kind, second):
    assert asked(kind, thing("red", 0.2, 0.3), second) == [None] * 40
    assert asked(kind, thing("red", 0.2, 0.3)) == [None] * 40
    assert asked(kind, *RED_LEFT, thing("grey", 0.5, 0.5)) == [None] * 40


@pytest.mark.parametrize("kind", ["present", "absent"])
def test_yes_is_as_frequent_as_no_and_both_are_true(kind):
    found = asked(kind, *RED_LEFT, times=400)
    for question in found:
        words = question.question.lower().strip("?").split()
        [colour] = set(words) & set(COLOURS)
        assert (question.answer == "yes") == ((colour in ("red", "blue")) == (kind == "present"))
        assert bool({"no", "not", "nothing"} & set(words)) == (kind == "absent")
        before = words[words.index(colour) - 1]
        assert before in ("an" if colour == "orange" else "a", "something", "no", "nothing")
    assert len({question.question.lower() for question in found}) > 100
    share = Counter(question.answer for question in found)["yes"] / 400
    assert share == pytest.approx(0.5, abs=0.08)


coordinates = st.floats(0.1, 0.9)
things = st.lists(
    st.builds(
        thing,
        st.sampled_from(list(COLOURS)),
        coordinates,
        coordinates,
        st.floats(0.05, 0.5),
        st.sampled_from(["owl", "kite"]),
    ),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(scene=things, seed=st.integers(0, 1000))
def test_whatever_is_asked_is_answered_truly(kind, scene, seed):
    question = ask(kind, tuple(scene), np.random.default_rng(seed))
    assert question == ask(kind, tuple(scene), np.random.default_rng(seed))
    if question is None:
        return
    assert question.kind == kind and question.answer in question.choices and len(set(question.choices)) > 1
    assert question.question.endswith("?") and not any(thing.name in question.question for thing in scene)
    said = [word.strip("?") for word in question.question.lower().split()]
    named = [next(t for t in scene if t.colour == word) for word in said if word in {t.colour for t in scene}]
    if kind == "count":
        assert question.answer == NUMBERS[len(scene) - 1]
    elif kind == "colour":
        assert {t.colour for t in scene} == {question.answer}
    elif kind == "quadrant":
        [(x, y)] = [t.centre for t in (named or scene)]
        assert question.answer == f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"
    elif kind in ("present", "absent"):
        assert len({*said} & {*COLOURS}) == 1
        assert question.answer == ("yes" if bool(named) == (kind == "present") else "no")
    else:
        [one, other] = [named[0], next(t for t in scene if t is not named[0])]
        truth = {
            "left_right": "left" if one.centre[0] < other.centre[0] else "right",
            "above_below": "above" if one.centre[1] < other.centre[1] else "below",
            "size": "bigger" if one.size > other.size else "smaller",
        }
        assert question.answer == truth[kind]


def told(*scene):
    """All facts that are told of a scene, without those of which colours there are."""
    return {fact for fact in facts(scene, np.random.default_rng(0)) if not fact[0].startswith("Any")}


def without_comparisons(told):
    return {(heading, word) for heading, word in told if " or " not in heading}


def test_what_is_clear_of_a_scene_is_told():
    one, other = RED_LEFT
    assert told(one) == {("Number:", "one"), ("Color:", "red"), ("Red at:", "top left")}
    assert told(one, thing("red", 0.8, 0.7)) == {("Number:", "two"), ("Color:", "red")}
    places = {("Left:", "red"), ("Right:", "blue"), ("Top:", "red"), ("Bottom:", "blue")}
    corners = {("Red at:", "top left"), ("Blue at:", "bottom right")}
    assert without_comparisons(told(one, other)) == places | corners
    compared = (
        {fact for seed in range(20) for fact in facts((one, other), np.random.default_rng(seed))} - places - corners
    )
    assert {fact for fact in compared if not fact[0].startswith("Any")} == {
        *(("Red left or right of blue:", "left"), ("Blue left or right of red:", "right")),
        *(("Red above or below blue:", "above"), ("Blue above or below red:", "below")),
    }
    assert without_comparisons(told(one, thing("blue", 0.25, 0.52, 0.3, "kite"))) == {
        *(("Red at:", "top left"), ("Top:", "red"), ("Bottom:", "blue")),
        *(("Bigger:", "blue"), ("Smaller:", "red")),
    }
    middle = thing("grey", 0.28, 0.6, 0.1, "eel")
    assert told(one, other, middle) == {
        *(("Red at:", "top left"), ("Blue at:", "bottom right"), ("Grey at:", "bottom left")),
        *(("Right:", "blue"), ("Top:", "red")),
    }


def compared(heading, scene):
    """The truth about a heading that compares two things of a scene."""
    colours = [word for word in heading.lower().rstrip(":").split() if word in COLOURS]
    one, other = (next(thing for thing in scene if thing.colour == colour) for colour in colours)
    if "left" in heading:
        return "left" if one.centre[0] < other.centre[0] else "right"
    if "above" in heading:
        return "above" if one.centre[1] < other.centre[1] else "below"
    return "bigger" if one.size > other.size else "smaller"


@settings(max_examples=300, deadline=None)
@given(scene=things, seed=st.integers(0, 1000))
def test_facts_are_true(scene, seed):
    by_place = [sorted(scene, key=lambda thing, axis=axis: thing.centre[axis]) for axis in (0, 1)]
    by_size = sorted(scene, key=lambda thing: thing.size)
    first = {"Left:": by_place[0], "Right:": by_place[0][::-1], "Top:": by_place[1], "Bottom:": by_place[1][::-1]}
    first |= {"Smaller:": by_size, "Bigger:": by_size[::-1]}
    for heading, word in facts(tuple(scene), np.random.default_rng(seed)):
        colour = heading.lower().removeprefix("any ").removesuffix("?").removesuffix(" at:")
        if heading.startswith("Any"):
            assert word == ("yes" if colour in {thing.colour for thing in scene} else "no")
        elif heading in first:
            assert word == first[heading][0].colour and word != first[heading][1].colour
        elif " or " in heading:
            assert word == compared(heading, scene)
        elif heading == "Number:":
            assert word == NUMBERS[len(scene) - 1] and len({thing.object for thing in scene}) == 1
        elif heading == "Color:":
            assert {thing.colour for thing in scene} == {word}
        else:
            [(x, y)] = [thing.centre for thing in scene if thing.colour == colour]
            assert word == f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"


def test_every_kind_has_scenes_that_it_fits():
    assert set(LAYOUTS_OF) == set(KINDS)
    assert {layout for layouts in LAYOUTS_OF.values() for layout in layouts} == set(LAYOUTS)
