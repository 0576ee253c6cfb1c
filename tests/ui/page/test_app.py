"""The page without a browser: Streamlit's own AppTest, on a model that tells what it was asked."""

import time

import pytest

pytest.importorskip("streamlit")

import streamlit as st
from streamlit.testing.v1 import AppTest

from assistant import ScriptedModel
from assistant.errors import FetchError, ModelError
from assistant.store import ConversationStore
from prompts import pictures as pictures_of
from ui.page import loading as page_loading

from .conftest import APP


@pytest.fixture
def model(monkeypatch):
    """What the page asks; its replies and its context can be changed."""
    made = ScriptedModel(lambda messages: "said " + messages[-1].text, context=None)
    monkeypatch.setattr(page_loading, "make_model", lambda name, progress: made)
    return made


@pytest.fixture
def open_page(model):
    """Opens the page as a new tab."""
    st.cache_resource.clear()

    def open_tab(**query):
        page = AppTest.from_file(str(APP), default_timeout=30)
        for key, value in query.items():
            page.query_params[key] = value
        page.run()
        assert not page.exception
        return page

    yield open_tab
    st.cache_resource.clear()


def ask(page, text, *files):
    """Send a message as soon as the page takes one."""
    for _ in range(100):
        if not page.chat_input[0].disabled:
            break
        time.sleep(0.05)
        page.run()
    for file in files:
        page.chat_input[0].upload(file.name, file.read_bytes(), "image/png")
    page.chat_input[0].set_value(text).run()
    assert not page.exception
    return page


def said(page):
    """What the answers say."""
    return [message.markdown[0].value for message in page.chat_message if message.name == "assistant"]


def press(page, key):
    next(button for button in page.button if button.key and button.key.startswith(key)).click().run()
    assert not page.exception
    return page


def test_a_question_with_pictures_reaches_the_model_in_order(open_page, model, pictures):
    page = ask(open_page(), "[img2] or [img1]?", pictures["red"], pictures["blue"])
    assert said(page) == ["said  or ?"]
    assert [picture.name for picture in pictures_of(model.prompts[0])] == ["blue.png", "red.png"]
    assert page.query_params["chat"] == stored().id


def stored():
    (summary,) = ConversationStore().list()
    return ConversationStore().load(summary.id)


def test_a_reload_finds_the_conversation(open_page):
    first = ask(open_page(), "hello")
    assert said(open_page(chat=first.query_params["chat"])) == ["said hello"]


def test_an_unknown_conversation_is_said_and_a_new_one_begins(open_page):
    page = open_page(chat="0" * 32)
    assert "cannot be opened" in page.error[0].value
    assert said(ask(page, "hello")) == ["said hello"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("broken.png", b"\x89PNG\r\n\x1a\nno", "broken.png"),
        ("text.png", b"hello", "text.png"),
        ("no.png", b"", "empty"),
    ],
)
def test_a_bad_picture_is_one_box_and_the_question_stays(open_page, model, pictures, tmp_path, name, content, reason):
    bad = tmp_path / name
    bad.write_bytes(content)
    page = ask(open_page(), "what?", pictures["red"], bad)
    assert len(page.error) == 1 and reason in page.error[0].value
    assert not model.prompts
    assert any(button.key == "remove-1" for button in page.button), "the good picture waits"
    page = ask(page, "what?")
    assert [picture.name for picture in pictures_of(model.prompts[0])] == ["red.png"]


@pytest.mark.parametrize(("text", "reason"), [("  ", "empty"), ("[img1]", "names no picture")])
def test_a_question_that_cannot_be_asked(open_page, model, text, reason):
    page = ask(open_page(), text)
    assert reason in page.error[0].value
    assert not model.prompts


def test_fifty_pictures_and_a_long_text(open_page, model, pictures):
    page = ask(open_page(), "a" * 100_000, *[pictures["red"]] * 50)
    assert len(pictures_of(model.prompts[0])) == 50
    assert not page.error


def test_text_is_shown_letter_for_letter(open_page):
    page = ask(open_page(), "<script>alert(1)</script> **x** ![y](http://z)")
    shown = "".join(element.proto.body for element in page.chat_message[0].get("html"))
    assert "&lt;script&gt;" in shown and "**x**" in shown
    assert "![" not in said(page)[0].replace("!\\[", "")


def test_what_does_not_fit_is_said_with_both_numbers(open_page, model):
    model.context = 70
    page = ask(open_page(), "word " * 20)
    assert "20" in page.error[0].value and "70" in page.error[0].value
    assert not page.chat_message


def test_left_out_turns_are_told(open_page, model):
    model.context = 80
    page = open_page()
    for _ in range(3):
        page = ask(page, "word " * 6)
    assert "left out" in page.info[0].value


def test_a_failing_model_is_one_box(open_page, model):
    def fail(_):
        raise ModelError("the weights are gone; fetch them again")

    model._reply = fail
    page = ask(open_page(), "hello")
    assert [box.value for box in page.error] == ["the weights are gone; fetch them again"]


def test_a_model_that_cannot_be_loaded_can_be_tried_again(open_page, model, monkeypatch):
    def fail(*_):
        raise FetchError("there is no network")

    monkeypatch.setattr(page_loading, "make_model", fail)
    page = open_page()
    assert "there is no network" in page.error[0].value
    monkeypatch.setattr(page_loading, "make_model", lambda name, progress: model)
    assert said(ask(press(page, "retry"), "hello")) == ["said hello"]


def test_thumbs_are_kept(open_page):
    page = ask(open_page(), "hello")
    page.feedback[0].set_value(1).run()
    assert stored().path()[-1].feedback == "up"


def test_parameters_reach_the_model(open_page, model):
    page = open_page()
    next(one for one in page.number_input if "max_new_tokens" in one.key).set_value(2).run()
    page = ask(page, "one two three four")
    assert said(page) == ["said one"]
    assert any("limit of tokens" in caption.value for caption in page.caption)


def test_options_that_do_not_fit_together_are_said(open_page):
    page = open_page()
    next(one for one in page.number_input if "beams" in one.key).set_value(2).run()
    next(one for one in page.slider if "temperature" in one.key).set_value(1.0).run()
    assert "beams" in page.error[0].value


def test_the_system_prompt_reaches_the_model(open_page, model):
    page = open_page()
    next(one for one in page.text_area if one.key.startswith("system")).set_value("Be brief.").run()
    ask(page, "hello")
    assert (model.prompts[0][0].role, model.prompts[0][0].text) == ("system", "Be brief.")


def test_undo_puts_the_question_and_its_pictures_back(open_page, model, pictures):
    page = press(ask(open_page(), "look [img1] here", pictures["red"]), "undo")
    assert not page.chat_message
    ask(page, "look [img1] again")
    assert [picture.name for picture in pictures_of(model.prompts[1])] == ["red.png"]


def test_an_edit_keeps_the_pictures(open_page, model, pictures):
    page = press(ask(open_page(), "look", pictures["red"]), "edit")
    page.text_area(key=next(one.key for one in page.text_area if one.key.startswith("edit-text"))).set_value(
        "what is [img1]?"
    )
    next(one for one in page.button if one.label == "Send").click().run()
    assert said(page) == ["said what is ?"]
    assert len(pictures_of(model.prompts[1])) == 1


def test_a_gallery_sample_with_examples(open_page, model):
    page = press(open_page(), "gallery_format")
    assert [message.role for message in model.prompts[0]] == ["user", "assistant"] * 2 + ["user"]
    assert said(page) == ["said What colour is it?"]


def test_an_example_without_an_answer_is_not_used(open_page, model):
    page = open_page()
    page.segmented_control(key="view").set_value("examples").run()
    page = press(page, "add-example")
    page.segmented_control(key="view").set_value("chat").run()
    ask(page, "hello")
    assert len(model.prompts[0]) == 1


def test_conversations_can_be_searched(open_page):
    ask(open_page(), "about cats")
    page = ask(open_page(), "about dogs")
    page.text_input(key="search").set_value("CATS").run()
    assert [button.label for button in page.button if (button.key or "").startswith("open-")] == ["about cats"]


def test_a_damaged_database_is_said_and_kept_aside(open_page, tmp_path):
    folder = tmp_path / "home" / "chats"
    folder.mkdir(parents=True)
    (folder / "chats.db").write_bytes(b"no database at all" * 1000)
    page = open_page()
    assert "chats.db" in page.warning[0].value
    assert said(ask(page, "hello")) == ["said hello"]
    assert list(folder.glob("chats.db.damaged-*"))


def test_a_damaged_import_is_said(open_page):
    page = open_page()
    next(one for one in page.file_uploader if one.key == "import-0").upload("chat.json", b"{", "application/json").run()
    assert not page.exception
    assert "chat.json" in page.error[0].value


def test_what_the_model_sees_is_shown_when_it_is_opened(open_page):
    page = ask(open_page(), "hello")
    assert page.session_state["sees"] is False
    page.session_state["sees"] = True
    page.run()
    assert any("said hello" in element.proto.body for element in page.get("html"))


def test_every_control_has_a_label(open_page):
    page = ask(open_page(lang="zh"), "你好")
    for view in ("chat", "examples"):
        page.segmented_control(key="view").set_value(view).run()
        for kind in (page.button, page.text_input, page.text_area, page.number_input, page.slider, page.toggle):
            assert all(one.label.strip() for one in kind)
