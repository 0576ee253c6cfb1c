"""The page on the embedded default, in a real browser."""

from pathlib import Path

import pytest

import assistant
from assistant.home import home
from assistant.parts import PARTS, part_state

from .conftest import Served

pytest.importorskip("streamlit")
expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = [pytest.mark.browser, pytest.mark.slow]

DEMO = Path(assistant.__file__).parent / "assets" / "demo.jpg"
HOME = home()  # before a test has one of its own


@pytest.fixture
def tab(open_at, tmp_path, monkeypatch):
    """The page, with the parts of this machine and conversations of its own."""
    monkeypatch.setenv("ASSISTANT_HOME", str(HOME))
    if any(part_state(name) != "ready" for name in PARTS):
        pytest.skip("needs the frozen parts: assistant models fetch")
    own = tmp_path / "own"
    own.mkdir()
    (own / "parts").symlink_to(HOME / "parts")
    page = Served(own, 0, model="default")
    yield open_at(page.address)
    page.stop()


def finished(tab, count):
    expect(tab.get_by_test_id("stChatMessage")).to_have_count(count, timeout=60_000)
    expect(tab.get_by_role("button", name="Regenerate")).to_be_enabled(timeout=60_000)


def test_it_answers_about_an_uploaded_picture(tab, shoot):
    tab.locator('[data-testid="stChatInput"] input[type=file]').set_input_files([DEMO])
    expect(tab.get_by_test_id("stFileChip")).to_have_count(1)
    tab.get_by_test_id("stChatInputTextArea").fill("What is in the picture?")
    tab.get_by_test_id("stChatInputTextArea").press("Enter")
    finished(tab, 2)
    expect(tab.get_by_test_id("stChatMessage").nth(1)).to_contain_text("panda")
    shoot(tab, "panda")


def test_examples_change_the_answer(tab, shoot):
    tab.get_by_role("button", name="Answer in JSON").click()
    finished(tab, 2)
    expect(tab.get_by_test_id("stChatMessage").nth(1)).to_contain_text('{"colour": "yellow"}')
    tab.get_by_text("Examples", exact=True).first.click()
    toggles = tab.locator('[data-testid="stCheckbox"] label')
    for number in range(2):
        toggles.nth(number).click()
    expect(tab.get_by_text("Examples in the prompt: 0")).to_be_visible()
    tab.get_by_text("Chat", exact=True).first.click()
    tab.get_by_role("button", name="Regenerate").click()
    expect(tab.get_by_text("2 of 2")).to_be_visible()
    finished(tab, 2)
    expect(tab.get_by_test_id("stChatMessage").nth(1)).not_to_contain_text("{")
    expect(tab.get_by_test_id("stChatMessage").nth(1)).to_contain_text("ellow")
    shoot(tab, "examples-off")
