import json
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.eval.items import Example
from training.eval.metrics import METRICS, contains, exact, format, is_right, normalise, one_of
from training.eval.task import Metric

WORDS = st.text("abcdefgh", min_size=2, max_size=6)


def asked(answer, *choices, accept=(), kind=""):
    return Example("1", (), "What?", answer, accept=accept, choices=choices, kind=kind)


def test_every_metric_of_a_task_is_there():
    assert set(METRICS) == set(get_args(Metric))


@pytest.mark.parametrize(
    ("answer", "accept", "right"),
    [
        ("A lion.", ["lion"], True),
        ("LION", ["lion"], True),
        ("a lion", ["Lion"], True),
        ("Two lions are resting.", ["lion"], True),
        ("Foxes", ["fox"], True),
        ("A red panda in a tree", ["red panda"], True),
        ("A red fox and a panda", ["red panda"], False),
        ("A king cat.", ["lion", "cat"], True),
        ("A dandelion.", ["lion"], False),
        ("A caterpillar.", ["cat"], False),
        ("A bobcat.", ["cat"], False),
        ("A tiger, not a lion", ["lion"], False),
        ("A tiger and a lion", ["lion"], False),
        ("A tiger AND a lion", ["lion"], False),
        ("A lion and a tiger", ["lion"], True),
        ("A lion, a tiger", ["lion"], True),
        ("A sandy lion", ["lion"], True),  # "and" is a word of its own
        ("A lion\nand more", ["lion"], True),
        ("and a lion", ["lion"], False),
        (", lion", ["lion"], False),
        ("", ["lion"], False),
        ("A lion", [], False),
        ("A t.rex", ["t.rex"], True),
        ("A torex", ["t.rex"], False),
    ],
)
def test_what_counts_as_the_right_name(answer, accept, right):
    assert is_right(answer, accept) is right
    if accept:
        assert contains(answer, asked("whatever", accept=tuple(accept))) is right


def test_a_name_is_taken_from_the_answer_where_nothing_else_is_accepted():
    assert contains("Two lions", asked("A lion."))
    assert not contains("A tiger.", asked("A lion."))


@pytest.mark.parametrize(
    ("answer", "wanted", "right"),
    [
        ("Yes.", "yes", True),
        ("yes, there is", "yes", False),
        ("Three", "3", True),
        ("3", "three", True),
        ("the top left", "Top-left", True),
        ("Gray.", "grey", True),
        ("a grey color", "gray colour", True),
        ("greyish", "grey", False),
        ("top", "top left", False),
        ("", "yes", False),
    ],
)
def test_exact_looks_past_case_articles_punctuation_and_number_words(answer, wanted, right):
    assert exact(answer, asked(wanted)) is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("A dax.", True),
        ("It is a DAX!", True),
        ("dax, dax", True),
        ("A wug.", False),
        ("A dax or a wug", False),
        ("A daxie.", False),
        ("", False),
    ],
)
def test_one_of_wants_exactly_one_name(answer, right):
    assert one_of(answer, asked("A dax.", "dax", "wug", accept=("dax",))) is right
    assert one_of(answer, asked("A dax.", "A dax.", "A wug.")) is right


def test_a_choice_within_a_longer_one_is_no_vote():
    question = asked("top left", "top left", "left", "right")
    assert one_of("At the top left.", question)
    assert not one_of("left", question)
    assert not one_of("At the top left, on the right", question)


@pytest.mark.parametrize(("said", "wanted"), [("It is gray.", "grey"), ("It is grey.", "gray"), ("Grey gray", "grey")])
def test_gray_is_grey_among_choices(said, wanted):
    assert one_of(said, asked(wanted, "red", wanted))
    assert not one_of(said, asked("red", "red", wanted))


@given(st.lists(WORDS, min_size=2, max_size=5, unique=True), st.integers(0, 4))
def test_every_choice_is_right_for_itself_alone(choices, place):
    answer = choices[place % len(choices)]
    example = asked(answer, *choices)
    for choice in choices:
        for said in (choice, choice.upper(), f"The {choice}."):
            assert one_of(said, example) is (normalise(choice) == normalise(answer))
            assert exact(said, example) is (normalise(choice) == normalise(answer))


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)


FORMATS = {
    "word": ["lion", "Lion", "x-ray"],
    "sentence": ["This is a lion.", "I see 3 lions!"],
    "json": ['{"object": "lion"}', ' {"object": "a dog"}\n'],
    "upper": ["A LION", "LION."],
}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_takes_its_own_answers_alone(kind):
    example = asked('{"object": "cat"}' if kind == "json" else "cat", kind=kind)
    for other, answers in FORMATS.items():
        for answer in answers:
            assert format(answer, example) is (other == kind), answer
    assert not format("", example)


def test_json_needs_the_keys_that_were_shown():
    example = asked(json.dumps({"object": "cat", "count": 1}), kind="json")
    assert format('{"count": 2, "object": "dog"}', example)
    assert not format('{"object": "dog"}', example)
    assert not format('["object", "count"]', example)


def test_an_unknown_format_is_an_error():
    with pytest.raises(ValueError, match="got 'poem'"):
        format("x", replace(asked("y"), kind="poem"))
