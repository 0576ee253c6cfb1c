import json
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.bridge.lessons import FORMATS, LESSON_KINDS, NAMING_QUESTIONS, draw_lesson
from training.data.made_up import evaluation_names
from training.data.names import sentence
from training.data.questions import NUMBERS, QUADRANTS, facts
from training.data.scenes import COLOURS
from training.data.shapes import SHAPES

many = settings(max_examples=80, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def drawn(kind, pools, seed):
    """A lesson to train with, or, for every second seed, one to validate with."""
    return draw_lesson(kind, pools[seed % 2], np.random.default_rng(seed))


def pictures(lesson):
    return [shown for turn in lesson for shown in turn.shown]


def single(turn):
    [shown] = turn.shown
    return shown


def made_up(answer):
    """The name in an answer of an episode."""
    return re.fullmatch(r"(?:A |This is a )?([a-z]+)\.?", answer)[1]


def test_the_order_of_the_kinds_is_kept():
    # it is part of every batch's seed
    kinds = "naming photo_naming scene fact shape check binding family rule format ordinal relation".split()
    assert list(LESSON_KINDS) == kinds


@pytest.mark.parametrize("kind", LESSON_KINDS)
def test_the_generator_decides_a_lesson(pools, kind):
    first = [drawn(kind, pools, seed) for seed in range(20)]
    np.random.seed(3)
    assert first == [drawn(kind, pools, seed) for seed in range(20)]
    assert len({repr(lesson) for lesson in first}) > 5


@pytest.mark.parametrize("kind", LESSON_KINDS)
@many
@given(seed=seeds)
def test_lessons_can_be_learned(pools, kind, seed):
    """Some answer is learned, pictures come before it, and there are not too many of them."""
    lesson, pool = drawn(kind, pools, seed), pools[seed % 2]
    assert lesson[0].shown and any(turn.learn for turn in lesson)
    assert 1 <= len(pictures(lesson)) <= 21
    for turn in lesson:
        assert turn.question.strip() == turn.question != ""
        assert turn.answer.strip() == turn.answer != ""
        assert "<" not in turn.question + turn.answer
    allowed = {"picture": pool.pictures, "photo": pool.classes, "scene": pool.scenes}
    for shown in pictures(lesson):
        assert shown.row in allowed[shown.source]
        assert bool(shown.name) == (shown.source != "scene")


@pytest.mark.parametrize(("kind", "source"), [("naming", "picture"), ("photo_naming", "photo")])
@many
@given(seed=seeds)
def test_naming_says_what_is_shown(pools, kind, source, seed):
    [turn] = drawn(kind, pools, seed)
    assert single(turn).source == source
    assert turn.question in NAMING_QUESTIONS
    assert turn.answer == sentence(single(turn).name)


@many
@given(seed=seeds)
def test_a_check_asks_for_what_is_shown_and_for_something_else(pools, seed):
    lesson = drawn("check", pools, seed)
    shown = single(lesson[0])
    assert 1 <= len(lesson) <= 2 and all(turn.learn for turn in lesson) and not any(turn.shown for turn in lesson[1:])
    asked = [checked(turn) for turn in lesson]
    assert len(set(asked)) == len(asked) and shown.name.lower() in map(str.lower, asked)
    for name, turn in zip(asked, lesson, strict=True):
        right = name.lower() == shown.name.lower()
        assert turn.answer == ("Yes." if right else "No.")
        assert right or not set(words_of(name)) & set(words_of(shown.name))


def checked(turn):
    """The name that a check asks for."""
    pattern = r"(?i:is this|is it|is there|do you see) (.+?)(?: in the picture)?\?"
    return re.fullmatch(pattern, turn.question)[1]


def words_of(name):
    return [word for word in name.lower().split() if word not in ("a", "an", "some")]


def test_what_a_check_denies_is_no_other_name_of_what_is_shown(pools):
    wrong = []
    for seed in range(400):
        lesson, pool = drawn("check", pools, seed), pools[seed % 2]
        shown = single(lesson[0])
        names = pool.class_names[shown.row] if shown.source == "photo" else pool.names[shown.row]
        denied = {checked(turn).lower() for turn in lesson if turn.answer == "No."}
        wrong += denied & {name.lower() for name in names}
    assert not wrong


def test_checks_are_of_all_pictures_and_either_answer_comes_first(pools):
    lessons = [drawn("check", pools, seed) for seed in range(300)]
    first = Counter((single(lesson[0]).source, lesson[0].answer) for lesson in lessons)
    assert set(first) == {(source, answer) for source in ("picture", "photo") for answer in ("Yes.", "No.")}
    assert min(first.values()) > 40
    assert Counter(len(lesson) for lesson in lessons)[2] > 250
    starts = {turn.question.lower().split(checked(turn).lower())[0] for lesson in lessons for turn in lesson}
    assert starts == {"is this ", "is it ", "is there ", "do you see "}


@pytest.mark.parametrize("seed", range(40))
def test_relations_are_asked_of_two_things_and_true(pools, seed):
    lesson = drawn("relation", pools, seed)
    row = lesson[0].shown[0].row
    one, other = pools[0].things[row]
    assert 1 <= len(lesson) <= 4 and len({turn.question for turn in lesson}) == len(lesson)
    for turn in lesson:
        colours = re.findall("|".join(COLOURS), turn.question.lower())
        asked, beside = (one, other) if one.colour == colours[0] else (other, one)
        x, y = (a - b for a, b in zip(asked.centre, beside.centre, strict=True))
        larger = asked.size > beside.size
        true = {
            "Left.": x < 0,
            "Right.": x > 0,
            "Above.": y < 0,
            "Below.": y > 0,
            "Bigger.": larger,
            "Smaller.": not larger,
        }
        x, y = asked.centre
        true |= {f"{'Top' if y < 0.5 else 'Bottom'} {'left' if x < 0.5 else 'right'}.": True}
        assert true[turn.answer]


@pytest.mark.parametrize("kind", ["scene", "shape", "check", "relation"])
def test_now_and_then_all_is_typed_in_small_letters(pools, kind):
    small = []
    for seed in range(400):
        asked = [turn.question for turn in drawn(kind, pools, seed)]
        assert len({question[0].islower() for question in asked}) == 1
        small.append(asked == [question.lower() for question in asked])
    assert np.mean(small) == pytest.approx(0.25, abs=0.07)


# Episodes


@pytest.mark.parametrize("kind", ["binding", "family"])
@many
@given(seed=seeds)
def test_an_episode_names_each_thing_consistently(pools, kind, seed):
    lesson, pool = drawn(kind, pools, seed), pools[seed % 2]
    if kind == "family":
        word_of = {member: word for word, members in pool.families.items() for member in members}
        things = [word_of[single(turn).row] for turn in lesson]
    elif single(lesson[0]).source == "photo":
        things = [single(turn).row for turn in lesson]
    else:
        things = [pool.names[single(turn).row][0] for turn in lesson]
    names = [made_up(turn.answer) for turn in lesson]
    assert len(set(zip(things, names, strict=True))) == len(set(things)) == len(set(names)) in (2, 3, 5)
    assert len({name[0] for name in names}) == len(set(names))
    assert len({turn.question for turn in lesson}) == 1
    assert len({turn.answer.replace(name, "") for turn, name in zip(lesson, names, strict=True)}) == 1
    # The first example of each thing says what nobody can know; from then on it can be known.
    known = set()
    for thing, turn in zip(things, lesson, strict=True):
        assert turn.learn == (thing in known)
        known.add(thing)
    # The last turns ask for each thing once, and equally many examples of each come before.
    queries = things[-len(known) :]
    assert sorted(queries, key=str) == sorted(known, key=str)
    examples = Counter(things[: -len(known)])
    assert set(examples) == known and len(set(examples.values())) == 1


@many
@given(seed=seeds)
def test_a_binding_shows_drawings_again_in_another_style(pools, seed):
    lesson, pool = drawn("binding", pools, seed), pools[seed % 2]
    [source] = {shown.source for shown in pictures(lesson)}
    if source == "photo":
        return
    style_of = {
        row: (key, style) for key, styles in pool.styles.items() for style, rows in styles.items() for row in rows
    }
    count = len({made_up(turn.answer) for turn in lesson})
    shown = [style_of[single(turn).row] for turn in lesson]
    for key, style in shown[-count:]:
        before = {other for thing, other in shown[:-count] if thing == key}
        assert len(before) == 1 and style not in before


@many
@given(seed=seeds)
def test_a_family_is_shown_by_other_members_where_there_are_enough(pools, seed):
    lesson = drawn("family", pools, seed)
    members = {}
    for turn in lesson:
        members.setdefault(made_up(turn.answer), []).append(single(turn).row)
    for rows in members.values():
        assert len(set(rows)) == len(rows) or len(rows) > 3


def test_drawings_and_photographs_are_both_bound(pools):
    sources = Counter(single(drawn("binding", pools, seed)[0]).source for seed in range(200))
    assert sources["photo"] / 200 == pytest.approx(0.25, abs=0.1)
    assert set(sources) == {"photo", "picture"}


def test_made_up_names_are_never_those_of_an_evaluation(pools):
    names = {
        made_up(turn.answer)
        for seed in range(300)
        for kind in ("binding", "family")
        for turn in drawn(kind, pools, seed)
    }
    assert len(names) > 1000
    assert not names & {*evaluation_names("dev"), *evaluation_names("test")}


# Rules


def rules_of(lesson, things):
    """Every rule under which all answers are true of what is shown."""

    def side(thing):
        return "left" if thing.centre[0] < 0.5 else "right"

    held = {"name", "colour", "count", "position", "yes/no"}
    for turn in lesson:
        scene = things[single(turn).row]
        asked = next((colour for colour in COLOURS if colour in turn.question.lower()), None)
        truths = {
            "name": scene[0].name,
            "colour": scene[0].colour,
            "count": NUMBERS[len(scene) - 1],
            "position": side(scene[0]) if len({side(thing) for thing in scene}) == 1 else None,
            "yes/no": None if asked is None else "yes" if asked == scene[0].colour else "no",
        }
        held = {rule for rule in held if truths[rule] == turn.answer}
    return held


@many
@given(seed=seeds)
def test_one_rule_holds_for_all_examples_and_is_true(pools, seed):
    lesson, pool = drawn("rule", pools, seed), pools[seed % 2]
    assert 3 <= len(lesson) <= 6
    assert [turn.learn for turn in lesson] == [False] + [True] * (len(lesson) - 1)
    assert len(rules_of(lesson, pool.things)) == 1
    assert all(single(turn).row in pool.alike for turn in lesson)


def test_every_rule_is_taught_and_what_is_asked_does_not_tell_which(pools):
    asked = {}
    for seed in range(300):
        lesson = drawn("rule", pools, seed)
        [rule] = rules_of(lesson, pools[seed % 2].things)
        words = "|".join(COLOURS)
        asked.setdefault(rule, set()).update(re.sub(words, "COLOUR", t.question.lower()) for t in lesson)
    assert set(asked) == {"name", "colour", "count", "position", "yes/no"}
    assert asked["name"] == asked["colour"] == asked["count"] == asked["position"]
    assert asked["yes/no"] < asked["name"]  # a question without a colour cannot be answered with yes or no
    assert len(asked["name"]) == 5


def test_yes_is_as_frequent_as_no(pools):
    answers = Counter(turn.answer for seed in range(400) for turn in drawn("rule", pools, seed))
    assert answers["yes"] / (answers["yes"] + answers["no"]) == pytest.approx(0.5, abs=0.1)


# Scenes


@many
@given(seed=seeds)
def test_one_scene_is_asked_about_in_turn(pools, seed):
    lesson, pool = drawn("scene", pools, seed), pools[seed % 2]
    assert 1 <= len(lesson) <= 4 and all(turn.learn for turn in lesson)
    assert all(not turn.shown for turn in lesson[1:])
    scene = pool.things[single(lesson[0]).row]
    for turn in lesson:
        said, asked = turn.answer.removesuffix(".").lower(), turn.question.lower()
        if asked in (*map(str.lower, NAMING_QUESTIONS), "what is it?"):
            assert {f"{thing.article} {thing.name}" for thing in scene} == {said}
        elif said in COLOURS:
            assert {thing.colour for thing in scene} == {said}
        elif said in NUMBERS:
            assert said == NUMBERS[len(scene) - 1]
        elif said in ("yes", "no"):
            words = set(re.findall(r"\w+", asked))
            there = bool(words & {thing.colour for thing in scene})
            assert (said == "yes") == (there != denies(asked)) and len(words & set(COLOURS)) == 1
        else:
            assert said in {*QUADRANTS, "left", "right", "above", "below", "bigger", "smaller"}


def test_a_scene_is_asked_about_in_all_ways(pools):
    answers = {turn.answer for seed in range(300) for turn in drawn("scene", pools, seed)}
    wanted = ["yes", "no", "left", "right", "above", "below", "bigger", "smaller", "one", "red", "top left"]
    assert {sentence(answer) for answer in wanted} <= answers
    assert sum(answer.startswith(("A ", "An ")) for answer in answers) > 3


def denies(question):
    return bool({"no", "not", "nothing"} & set(re.findall(r"\w+", question.lower())))


def test_up_to_four_questions_are_asked_about_a_scene(pools):
    numbers = {len(drawn("scene", pools, seed)) for seed in range(100)}
    assert max(numbers) == 4
    asked = {turn.question for seed in range(200) for turn in drawn("scene", pools, seed) if turn.answer == "No."}
    assert {denies(question) for question in asked} == {True, False}


@many
@given(seed=seeds)
def test_facts_are_about_one_scene(pools, seed):
    lesson, pool = drawn("fact", pools, seed), pools[seed % 2]
    assert 1 <= len(lesson) <= 5 and all(turn.learn for turn in lesson) and not any(turn.shown for turn in lesson[1:])
    scene = pool.things[single(lesson[0]).row]
    true = {fact for seed in range(20) for fact in facts(scene, np.random.default_rng(seed))} | {
        (f"Any {colour}?", "yes" if colour in {thing.colour for thing in scene} else "no") for colour in COLOURS
    }
    assert {(turn.question, turn.answer) for turn in lesson} <= true


def test_every_fact_is_told(pools):
    lessons = [drawn("fact", pools, seed) for seed in range(300)]
    told = {re.sub(rf"\b({'|'.join(COLOURS)})\b", "...", t.question.lower()) for lesson in lessons for t in lesson}
    assert told == {
        *("any ...?", "number:", "color:", "... at:", "left:", "right:", "top:", "bottom:", "bigger:", "smaller:"),
        *("... left or right of ...:", "... above or below ...:", "... bigger or smaller than ...:"),
    }
    assert max(map(len, lessons)) == 5


# Shapes


@many
@given(seed=seeds)
def test_what_is_said_of_a_shape_is_true(pools, seed):
    lesson, pool = drawn("shape", pools, seed), pools[seed % 2]
    assert len(lesson) == 4 and all(turn.learn for turn in lesson) and not any(turn.shown for turn in lesson[1:])
    [shape] = [shape for shape, rows in pool.shapes.items() if single(lesson[0]).row in rows]
    for turn in lesson:
        asked = set(re.findall(r"\w+", turn.question.lower())) & set(SHAPES)
        if turn.question.lower().startswith(("what", "which")):
            assert turn.answer == sentence(shape) and not asked
        else:
            assert len(asked) == 1
            assert turn.answer == ("Yes." if (asked == {shape}) != denies(turn.question) else "No.")


def test_every_shape_is_asked_in_all_ways(pools):
    turns = [turn for seed in range(300) for turn in drawn("shape", pools, seed)]
    ways = {re.sub("|".join(SHAPES), "...", turn.question.lower()) for turn in turns}
    assert len(ways) == 5 + 4 + 4
    for negated in (False, True):
        said = Counter(t.answer for t in turns if t.answer in ("Yes.", "No.") and denies(t.question) == negated)
        assert said["Yes."] / said.total() == pytest.approx(0.5, abs=0.08)
    named = Counter(turn.answer for turn in turns if turn.answer not in ("Yes.", "No."))
    assert set(named) == {sentence(shape) for shape in SHAPES}
    assert sum(named.values()) / len(turns) == pytest.approx(0.4, abs=0.06)


# Formats


@many
@given(seed=seeds)
def test_a_lesson_keeps_to_one_format(pools, seed):
    lesson = drawn("format", pools, seed)
    assert 2 <= len(lesson) <= 4
    assert [turn.learn for turn in lesson] == [False] + [True] * (len(lesson) - 1)
    assert len({turn.question for turn in lesson}) == 1
    assert len({single(turn).source for turn in lesson}) == 1
    ways = [write for some in FORMATS.values() for write in some]
    assert any(all(turn.answer == write(single(turn).name) for turn in lesson) for write in ways)
    if lesson[0].answer.startswith("{"):
        keys = set()
        for turn in lesson:
            [(key, value)] = json.loads(turn.answer).items()
            keys.add(key)
            assert single(turn).name.endswith(value) and not value.startswith(("a ", "an ", "some "))
        assert len(keys) == 1


def test_every_format_is_taught(pools):
    answers = [drawn("format", pools, seed)[-1].answer for seed in range(200)]
    assert {key for a in answers if a[0] == "{" for key in json.loads(a)} == {"object", "name", "answer"}
    assert any(a.startswith("The picture shows a") for a in answers)
    assert any(a.isupper() and a.endswith(".") for a in answers) and any(a.isupper() and a[-1] != "." for a in answers)
    assert any(a.isalpha() and a.islower() for a in answers) and any(a.isalpha() and a.istitle() for a in answers)


@pytest.mark.parametrize(
    ("name", "word", "sentence", "json", "upper"),
    [
        ("a red fox", "fox", "The picture shows a red fox.", '{"object": "red fox"}', "RED FOX"),
        ("some milk", "milk", "The picture shows some milk.", '{"object": "milk"}', "MILK"),
        ("a pair of shoes", "shoes", "The picture shows a pair of shoes.", '{"object": "pair of shoes"}', None),
        ("Mars", "Mars", "The picture shows Mars.", '{"object": "Mars"}', "MARS"),
        ('a 5" disk', "disk", 'The picture shows a 5" disk.', '{"object": "5\\" disk"}', '5" DISK'),
    ],
)
def test_names_are_written_in_every_format(name, word, sentence, json, upper):
    written = {key: writers[0](name) for key, writers in FORMATS.items()}
    assert written == {"word": word, "sentence": sentence, "json": json, "upper": upper or "PAIR OF SHOES"}


# Several pictures


@many
@given(seed=seeds)
def test_an_ordinal_is_answered_with_that_picture(pools, seed):
    lesson = drawn("ordinal", pools, seed)
    shown = lesson[0].shown
    assert len(shown) in (2, 3) and all(not turn.shown for turn in lesson[1:])
    assert len(lesson) == len(shown) and all(turn.learn for turn in lesson)
    asked = set()
    for turn in lesson:
        word = re.search(r"\b(first|second|third|last)\b", turn.question)[1]
        number = len(shown) - 1 if word == "last" else ("first", "second", "third").index(word)
        assert turn.answer == sentence(shown[number].name)
        asked.add(number)
    assert asked == set(range(len(shown)))


def test_every_ordinal_is_asked(pools):
    words = Counter(w for seed in range(100) for turn in drawn("ordinal", pools, seed) for w in turn.question.split())
    assert min(words[word] for word in ("first", "second", "third", "last")) > 20
