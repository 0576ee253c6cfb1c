import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from assistant.errors import InputError, PromptError
from assistant.events import Finished, Started, Token, Usage, last_answer
from assistant.images import Picture
from assistant.options import Options
from assistant.scripted import ScriptedModel
from prompts import assistant_message, system_message, user_message

RED, BLUE = (Picture(Image.new("RGB", (4, 4), colour), colour) for colour in ("red", "blue"))
ASKED = [user_message("what is it")]


def test_it_streams_as_an_engine_does():
    model = ScriptedModel(["a small  dog"], name="tiny")
    started, *tokens, finished = model.reply(ASKED)
    assert started == Started(3, 0) and tokens == [Token("a"), Token(" small"), Token("  dog")]
    answer = finished.answer
    assert (answer.text, answer.model, answer.finish_reason) == ("a small  dog", "tiny", "stop")
    assert answer.usage == Usage(3, 3, 0) and 0 <= answer.seconds["first_token"] <= answer.seconds["total"]
    assert answer.seconds["load"] == 0


@given(st.text())
def test_pieces_are_the_reply_and_nothing_else(reply):
    *events, finished = ScriptedModel([reply]).reply(ASKED)
    assert "".join(event.text for event in events[1:]) == reply and finished.answer.text == reply.strip()
    assert finished.answer.usage.completion_tokens == len(events) - 1


def test_replies_come_in_order_or_from_the_conversation():
    model = ScriptedModel(iter(["one", "two"]))
    assert [last_answer(model.reply(ASKED)).text for _ in range(2)] == ["one", "two"]
    with pytest.raises(InputError, match="no reply left"):
        last_answer(model.reply(ASKED))
    echo = ScriptedModel(lambda messages: messages[-1].text.upper())
    assert last_answer(echo.reply(ASKED)).text == "WHAT IS IT"
    assert last_answer(ScriptedModel("a whole text").reply(ASKED)).text == "a whole text"


def test_it_keeps_what_it_was_asked():
    model = ScriptedModel(lambda _: "x")
    asked = [system_message("be brief"), *ASKED]
    last_answer(model.reply(asked)), last_answer(model.reply(ASKED))
    assert model.prompts == [asked, ASKED]
    asked.append(assistant_message("later"))
    assert len(model.prompts[0]) == 2


def test_a_word_is_a_token_and_a_picture_is_one():
    model = ScriptedModel([])
    assert model.count([system_message("be brief"), user_message("[img1] and [img2] ?", [RED, BLUE])]) == 6
    assert model.count([]) == 0


def test_known_starts_are_not_read_again():
    model = ScriptedModel(lambda _: "it is red")
    first = [user_message("what is it", [RED])]
    assert last_answer(model.reply(first)).usage == Usage(4, 3, 0)
    second = [*first, assistant_message("it is red"), user_message("sure")]
    assert last_answer(model.reply(second)).usage == Usage(8, 3, 6), "all but the last token of an answer was read"
    assert last_answer(model.reply(first)).usage == Usage(4, 3, 3), "the last token of a prompt is read anyway"
    assert last_answer(model.reply([user_message("what is it", [BLUE])])).usage.cached_tokens == 0
    assert last_answer(model.reply([user_message("it is red", [RED])])).usage.cached_tokens == 1


def test_what_a_consumer_left_was_read_too():
    model = ScriptedModel(lambda _: "it is red")
    events = model.reply(ASKED)
    next(events)
    events.close()
    assert last_answer(model.reply(ASKED)).usage.cached_tokens == 2


def test_cancelling_ends_it_after_the_token_at_hand():
    cancel = threading.Event()
    events = ScriptedModel(["one two three"]).reply(ASKED, cancel=cancel)
    next(events), next(events)
    cancel.set()
    (finished,) = events
    assert finished.answer.text == "one" and finished.answer.finish_reason == "cancelled"


def test_the_options_and_the_context_end_it():
    answer = last_answer(ScriptedModel(["one two three"]).reply(ASKED, Options(max_new_tokens=2)))
    assert (answer.text, answer.finish_reason) == ("one two", "length")
    answer = last_answer(ScriptedModel(["one two three"], context=4).reply(ASKED))
    assert (answer.text, answer.finish_reason) == ("one", "length")
    answer = last_answer(ScriptedModel(["one two three"]).reply(ASKED, Options(max_new_tokens=3)))
    assert answer.finish_reason == "stop"
    model = ScriptedModel(["one"], context=3)
    with pytest.raises(PromptError, match="3 tokens and the model reads 3"):
        model.reply(ASKED)
    assert model.prompts == []


def test_it_takes_its_time():
    asked = time.monotonic() - 5
    events = ScriptedModel(["one two"], delay=0.05).reply(ASKED, since=asked)
    started = time.monotonic()
    answer = last_answer(events)
    assert time.monotonic() - started >= 0.1 and answer.seconds["total"] >= 5.1
    assert 5.05 <= answer.seconds["first_token"] < answer.seconds["total"]


def test_an_empty_reply_is_an_answer():
    started, finished = ScriptedModel([""]).reply(ASKED)
    assert isinstance(started, Started) and isinstance(finished, Finished)
    assert finished.answer.text == "" and finished.answer.finish_reason == "stop"


def test_it_needs_no_torch():
    names = "ChatModel, ChatSession, Conversation, Demo, Failed, Notice, Options, ScriptedModel, ToolResult, Turn"
    code = f"import sys; from assistant import {names}; print([*ChatSession(ScriptedModel('hi')).send('x')]); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
