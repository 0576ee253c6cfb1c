"""The page in a real browser, on a model that tells what it was asked."""

import base64
import json
import re

import pytest

pytest.importorskip("streamlit")
expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = [pytest.mark.browser]

LONG = "word " * 40


def send(tab, text, files=()):
    box = tab.get_by_test_id("stChatInputTextArea")
    expect(box).to_be_enabled()
    if files:
        tab.locator('[data-testid="stChatInput"] input[type=file]').set_input_files(list(files))
        expect(tab.get_by_test_id("stFileChip")).to_have_count(len(files))
    box.fill(text)
    box.press("Enter")


def messages(tab):
    return tab.get_by_test_id("stChatMessage")


def finished(tab, count):
    """Waits until so many messages are there and none grows."""
    expect(messages(tab)).to_have_count(count)
    expect(tab.get_by_role("button", name="Regenerate")).to_be_visible()
    expect(tab.get_by_test_id("stChatInputTextArea")).to_be_enabled()


def button(tab, name):
    return tab.get_by_role("button", name=name, exact=True)


def test_upload_markers_send_and_stream(new_tab, pictures, shoot):
    tab = new_tab()
    shoot(tab, "gallery")
    tab.locator('[data-testid="stChatInput"] input[type=file]').set_input_files([pictures["red"], pictures["blue"]])
    expect(tab.get_by_test_id("stFileChip")).to_have_count(2)
    box = tab.get_by_test_id("stChatInputTextArea")
    box.fill("First ")
    button(tab, "Insert [img2]").click()
    tab.keyboard.type("then ")
    button(tab, "Insert [img1]").click()
    expect(box).to_have_value("First [img2] then [img1] ")
    shoot(tab, "composer")
    box.press("Enter")
    expect(messages(tab)).to_have_count(2)
    expect(messages(tab).nth(1)).to_contain_text("▌")
    shoot(tab, "streaming")
    finished(tab, 2)
    expect(messages(tab).nth(1)).to_contain_text("I saw 2 pictures and 0 earlier answers. You said: First then")
    expect(messages(tab).nth(1)).to_contain_text("tokens/s")
    shown = messages(tab).nth(0).get_by_role("img", name=re.compile("Picture"))
    assert [image.get_attribute("alt") for image in shown.all()] == ["Picture 1: blue.png", "Picture 2: red.png"]
    order = (
        messages(tab)
        .nth(0)
        .get_by_test_id("stHtml")
        .evaluate("e => [...e.querySelectorAll('span, img')].map(x => x.alt || x.textContent.trim())")
    )
    assert order[:4] == ["First", "Picture 1: blue.png", "then", "Picture 2: red.png"]
    shoot(tab, "answer")


def test_paste(new_tab, pictures):
    tab = new_tab()
    data = base64.b64encode(pictures["red"].read_bytes()).decode()
    tab.get_by_test_id("stChatInputTextArea").focus()
    tab.evaluate(
        """data => {
        const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "image.png", {type: "image/png"}));
        document.querySelector('[data-testid="stChatInputTextArea"]').dispatchEvent(
            new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true, cancelable: true}));
        }""",
        data,
    )
    expect(tab.get_by_test_id("stFileChip")).to_have_count(1)
    tab.get_by_test_id("stChatInputTextArea").fill("pasted")
    tab.get_by_test_id("stChatInputTextArea").press("Enter")
    finished(tab, 2)
    expect(messages(tab).nth(1)).to_contain_text("I saw 1 pictures")


def test_stop_keeps_the_partial_answer(new_tab, shoot):
    tab = new_tab()
    send(tab, LONG)
    expect(messages(tab).nth(1)).to_contain_text("word word")
    button(tab, "Stop").click()
    finished(tab, 2)
    expect(messages(tab).nth(1)).to_contain_text("stopped")
    expect(messages(tab).nth(1)).to_contain_text("You said: word")
    said = messages(tab).nth(1).inner_text().count("word")
    assert 1 <= said < 40
    shoot(tab, "stopped")
    tab.reload()
    finished(tab, 2)
    assert messages(tab).nth(1).inner_text().count("word") == said


def test_regenerate_edit_versions_and_undo(new_tab, shoot):
    tab = new_tab()
    send(tab, "one")
    finished(tab, 2)
    button(tab, "Regenerate").click()
    expect(tab.get_by_text("2 of 2")).to_be_visible()
    finished(tab, 2)
    button(tab, "Edit").click()
    tab.get_by_label("Your message").fill("two")
    shoot(tab, "edit")
    button(tab, "Send").click()
    expect(messages(tab).nth(1)).to_contain_text("You said: two")
    finished(tab, 2)
    button(tab, "Previous").click()
    expect(messages(tab).nth(1)).to_contain_text("You said: one")
    button(tab, "Next").first.click()
    expect(messages(tab).nth(1)).to_contain_text("You said: two")
    button(tab, "Undo").click()
    expect(messages(tab)).to_have_count(0)
    expect(tab.get_by_test_id("stChatInputTextArea")).to_have_value("two")


def test_a_reload_in_the_middle_and_a_second_tab_see_the_answer_grow(new_tab):
    tab = new_tab()
    send(tab, LONG)
    expect(messages(tab).nth(1)).to_contain_text("word")
    tab.reload()
    expect(messages(tab).nth(1)).to_contain_text("▌")
    other = new_tab(query="/?" + tab.url.split("?")[1])
    finished(tab, 2)
    finished(other, 2)
    for one in (tab, other):
        assert messages(one).nth(1).inner_text().count("word") == 40


def test_a_server_restart_keeps_history(new_tab, served, pictures):
    tab = new_tab()
    send(tab, "remember", [pictures["blue"]])
    finished(tab, 2)
    served.stop()
    served.start()
    tab.reload()
    finished(tab, 2)
    expect(messages(tab).nth(0).get_by_role("img", name="Picture 1: blue.png")).to_be_visible()
    expect(messages(tab).nth(1)).to_contain_text("You said: remember")


def test_a_workbench_set_reaches_the_prompt(new_tab, pictures, tmp_path, shoot):
    table = tmp_path / "set.jsonl"
    rows = [{"image": f"{colour}.png", "question": "Colour?", "answer": f"it is {colour}"} for colour in pictures]
    table.write_text("\n".join(map(json.dumps, rows)))
    tab = new_tab()
    tab.get_by_role("radio", name="Examples").or_(button(tab, "Examples")).first.click()
    tab.get_by_text("Load a set").click()
    tab.locator('input[type="file"]:not([webkitdirectory])').and_(tab.locator(".st-key-files-0 input")).set_input_files(
        [table, *pictures.values()]
    )
    expect(tab.get_by_text("Examples in the prompt: 2")).to_be_visible()
    expect(tab.get_by_role("textbox", name="Answer").nth(1)).to_have_value("it is blue")
    shoot(tab, "workbench")
    button(tab, "Move up").nth(1).click()
    expect(tab.get_by_role("textbox", name="Answer").nth(0)).to_have_value("it is blue")
    tab.get_by_text("What the model sees").click()
    expect(tab.get_by_test_id("stExpander").filter(has_text="What the model sees")).to_contain_text("it is red")
    shoot(tab, "sees")
    tab.get_by_text("Side by side").click()
    tab.get_by_test_id("stForm").get_by_role("button", name="Compare").click()
    expect(tab.get_by_text("I saw 2 pictures and 2 earlier answers")).to_be_visible()
    expect(tab.get_by_text("I saw 0 pictures and 0 earlier answers")).to_be_visible()
    tab.get_by_text("I saw 0 pictures and 0 earlier answers").scroll_into_view_if_needed()
    shoot(tab, "side-by-side")
    tab.get_by_role("radio", name="Chat").or_(button(tab, "Chat")).first.click()
    send(tab, "and now?")
    finished(tab, 2)
    expect(messages(tab).nth(1)).to_contain_text("I saw 2 pictures and 2 earlier answers")


def test_chinese(new_tab, shoot):
    tab = new_tab()
    tab.get_by_text("中文").click()
    expect(button(tab, "新对话")).to_be_visible()
    tab.get_by_test_id("stChatInputTextArea").fill("你好")
    tab.get_by_test_id("stChatInputTextArea").press("Enter")
    expect(button(tab, "重新生成")).to_be_visible()
    shoot(tab, "chinese")
    tab.reload()
    expect(button(tab, "重新生成")).to_be_visible()


def test_a_narrow_window(new_tab, pictures, shoot):
    tab = new_tab(375, 720)
    send(tab, "What is in [img1] and in [img2]?", pictures.values())
    finished(tab, 2)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    for name in ("Edit", "Undo", "Regenerate"):
        place = button(tab, name).bounding_box()
        assert place["x"] >= 0 and place["x"] + place["width"] <= 375
    assert (
        tab.evaluate(
            """async () => { const main = document.querySelector('[data-testid="stMain"]');
        await new Promise(done => setTimeout(done, 1500));
        return main.scrollHeight - main.clientHeight - main.scrollTop; }"""
        )
        < 20
    ), "the newest text is in sight"
    shoot(tab, "narrow")


def test_conversations_are_listed_renamed_and_deleted(new_tab, shoot):
    tab = new_tab()
    send(tab, "first chat")
    finished(tab, 2)
    button(tab, "New chat").click()
    expect(messages(tab)).to_have_count(0)
    send(tab, "second chat")
    finished(tab, 2)
    button(tab, "first chat").click()
    expect(messages(tab).nth(0)).to_contain_text("first chat")
    tab.get_by_text("Manage").click()
    tab.get_by_label("Name").fill("renamed")
    tab.get_by_label("Name").press("Tab")
    button(tab, "Rename").click()
    expect(button(tab, "renamed")).to_be_visible()
    shoot(tab, "manage")
    with tab.expect_download() as download:
        button(tab, "Export .json").click()
    button(tab, "Delete").click()
    button(tab, "Yes, delete it").click()
    expect(button(tab, "renamed")).to_have_count(0)
    tab.get_by_text("Import a conversation").click()
    tab.locator(".st-key-import-0 input").set_input_files(
        [{"name": "chat.json", "mimeType": "application/json", "buffer": download.value.path().read_bytes()}]
    )
    expect(messages(tab).nth(0)).to_contain_text("first chat")


def test_the_keyboard_alone_is_enough(new_tab):
    tab = new_tab()
    tab.get_by_test_id("stChatInputTextArea").focus()
    tab.keyboard.type("typed")
    tab.keyboard.press("Enter")
    finished(tab, 2)
    button(tab, "Regenerate").focus()
    tab.keyboard.press("Enter")
    expect(tab.get_by_text("2 of 2")).to_be_visible()


def test_drop(new_tab, pictures):
    tab = new_tab()
    data = base64.b64encode(pictures["blue"].read_bytes()).decode()
    transfer = tab.evaluate_handle(
        """data => {
        const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "dropped.png", {type: "image/png"}));
        return transfer;
        }""",
        data,
    )
    tab.dispatch_event("body", "dragover", {"dataTransfer": transfer})
    expect(tab.get_by_text("Drag and drop files here")).to_be_visible()
    tab.get_by_test_id("stChatInputFileUploadButton").dispatch_event("drop", {"dataTransfer": transfer})
    expect(tab.get_by_test_id("stFileChip")).to_have_count(1)
    tab.get_by_test_id("stChatInputTextArea").press("Enter")
    finished(tab, 2)
    expect(messages(tab).nth(0).get_by_role("img", name="Picture 1: dropped.png")).to_be_visible()


def test_what_is_no_picture_is_one_box_and_the_text_stays(new_tab, tmp_path, shoot):
    bad = tmp_path / "notes.png"
    bad.write_text("hello")
    tab = new_tab()
    send(tab, "what is it?", [bad])
    expect(tab.get_by_test_id("stAlert")).to_contain_text("notes.png")
    expect(tab.get_by_test_id("stAlert")).to_have_count(1)
    expect(tab.get_by_test_id("stException")).to_have_count(0)
    expect(tab.get_by_test_id("stChatInputTextArea")).to_have_value("what is it?")
    shoot(tab, "bad-picture")


def test_too_large_an_upload_names_the_limit(new_tab, tmp_path):
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(51 * 2**20)
    tab = new_tab()
    tab.locator('[data-testid="stChatInput"] input[type=file]').set_input_files([large])
    tab.get_by_test_id("stFileChip").hover()
    expect(tab.get_by_role("tooltip")).to_contain_text("50.0MB")
