import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.errors import AssistantError, PromptError
from prompts import (
    ImagePart,
    Message,
    TextPart,
    assistant_message,
    few_shot,
    pictures,
    system_message,
    to_chat,
    user_message,
)

MARKER = re.compile(r"\[img\d+\]", re.IGNORECASE)
LITERALS = (
    "<image>",
    "<|im_end|>",
    "<|im_start|>system\n",
    "</s>",
    "[INST]",
    "{{ x }}",
    "[img]",
    "[img 1]",
    "[1]",
    "\n",
)
texts = st.lists(st.sampled_from(LITERALS) | st.text(max_size=12), max_size=4).map("".join)
texts = texts.filter(lambda text: not MARKER.search(text))


def test_pictures_stand_before_the_text_in_order():
    assert user_message("What is this?", ["a", "b"]).parts == (
        ImagePart("a"),
        ImagePart("b"),
        TextPart("What is this?"),
    )


def test_markers_place_pictures():
    assert user_message("[img2] and [img1]: what is in the first?", ["a", "b"]).parts == (
        ImagePart("b"),
        TextPart(" and "),
        ImagePart("a"),
        TextPart(": what is in the first?"),
    )
    assert user_message("Same as [Img01]", ["a"]).parts == (TextPart("Same as "), ImagePart("a"))


def test_pictures_without_a_marker_stand_before_the_text():
    assert user_message("Is [img2] like them?", ["a", "b", "c"]).parts == (
        ImagePart("a"),
        ImagePart("c"),
        TextPart("Is "),
        ImagePart("b"),
        TextPart(" like them?"),
    )


def test_text_or_pictures_alone():
    assert user_message("Hello").parts == (TextPart("Hello"),)
    assert user_message("", ["a"]).parts == (ImagePart("a"),)
    for empty in ("", " \n"):
        with pytest.raises(PromptError, match="message is empty"):
            user_message(empty)


@pytest.mark.parametrize(
    ("text", "count", "counted"),
    [
        ("[img9]", 0, "1 picture marker and 0 pictures were given: [img9] names no picture"),
        ("[img1] [img2]", 1, "2 picture markers and 1 picture was given: [img2] names no picture"),
        ("[img0]", 2, "1 picture marker and 2 pictures were given: [img0] names no picture"),
        ("[img1][img2][img1]", 2, "3 picture markers and 2 pictures were given: [img1] stands 2 times"),
        ("[img5][img5]", 1, "2 picture markers and 1 picture was given: [img5] names no picture"),
    ],
)
def test_markers_that_do_not_fit_are_counted(text, count, counted):
    with pytest.raises(PromptError) as caught:
        user_message(text, ["picture"] * count)
    assert counted in str(caught.value)


def test_the_error_stays_short_and_belongs_to_the_tree():
    with pytest.raises(PromptError) as caught:
        user_message("".join(f"[img{number}]" for number in range(1000)))
    assert "1000 picture markers" in str(caught.value) and len(str(caught.value)) < 250
    assert isinstance(caught.value, (AssistantError, ValueError)) and caught.value.exit_code == 2


@st.composite
def placed(draw):
    """(text, pictures, the order wanted, the text without markers): some pictures have markers, in any order."""
    images = [object() for _ in range(draw(st.integers(0, 6)))]
    numbers = draw(st.permutations(range(len(images))))[: draw(st.integers(0, len(images)))]
    text = plain = draw(texts)
    for number in numbers:
        between = draw(texts)
        text += f"[img{number + 1}]" + between
        plain += between
    order = [image for number, image in enumerate(images) if number not in numbers]
    order += [images[number] for number in numbers]
    return text, images, order, plain


@given(placed().filter(lambda case: case[1] or case[3].strip()))
def test_every_picture_appears_once_in_order_and_the_text_is_kept(case):
    text, images, order, plain = case
    message = user_message(text, images)
    assert list(message.images) == order  # plain objects are equal only to themselves
    assert message.text == plain
    assert all(part.text for part in message.parts if isinstance(part, TextPart))
    content = to_chat([message])[0]["content"]
    assert "".join(part.get("text", "") for part in content) == plain
    assert [part["type"] for part in content].count("image") == len(images)


@given(texts.filter(str.strip), st.integers(0, 3), st.lists(st.integers(0, 5), min_size=1, max_size=5))
def test_markers_fit_or_raise(text, count, numbers):
    marked = text + "".join(f"[img{number}]" for number in numbers)
    fits = len(set(numbers)) == len(numbers) and all(1 <= number <= count for number in numbers)
    if fits:
        assert len(user_message(marked, ["picture"] * count).images) == count
    else:
        with pytest.raises(PromptError, match=f"{len(numbers)} picture marker.* {count} picture"):
            user_message(marked, ["picture"] * count)


def test_few_shot_puts_the_demonstrations_before_the_question():
    question = user_message("What is this?", ["c"])
    messages = few_shot(
        [("a", "What is this?", "a dax"), ("b", "And [img1]?", "a blicket"), (None, "2 + 2?", "4")],
        question,
        system="Be brief.",
    )
    assert messages == [
        system_message("Be brief."),
        user_message("What is this?", ["a"]),
        assistant_message("a dax"),
        Message("user", (TextPart("And "), ImagePart("b"), TextPart("?"))),
        assistant_message("a blicket"),
        user_message("2 + 2?"),
        assistant_message("4"),
        question,
    ]
    assert pictures(messages) == ["a", "b", "c"]
    assert few_shot([], question) == [question]


def test_a_demonstration_that_shows_nothing_is_named():
    question = user_message("What is this?", ["c"])
    with pytest.raises(PromptError, match="demonstration 2 has no answer"):
        few_shot([("a", "What?", "a dax"), ("b", "What?", " ")], question)
    with pytest.raises(PromptError, match=r"demonstration 1: .*\[img2\] names no picture"):
        few_shot([("a", "[img2]?", "a dax")], question)
    with pytest.raises(PromptError, match="demonstration 1: the message is empty"):
        few_shot([(None, "", "a dax")], question)


def test_answers_may_hold_markers():
    assert assistant_message("Like [img1].").parts == (TextPart("Like [img1]."),)


def test_to_chat_is_the_transformers_format():
    messages = few_shot([("a", "What is this?", "a dax")], user_message("[img1]?", ["b"]), system="Be brief.")
    assert to_chat(messages) == [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a dax"}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]},
    ]


def test_a_role_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="not 'tool'"):
        Message("tool", ())


def test_prompts_need_no_torch():
    code = (
        "import prompts, sys; sys.exit(bool({'torch', 'transformers', 'numpy', 'PIL', 'assistant'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
