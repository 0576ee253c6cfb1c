"""`assistant ui`: what it starts, without starting it."""

import importlib.util
import sys

import pytest
from click.testing import CliRunner

from assistant.errors import InputError, MissingExtraError
from ui.commands import ui as command_module
from ui.commands.ui import APP, command, ui


@pytest.fixture
def started(monkeypatch):
    """The calls of ``Popen``, none of which starts anything."""
    calls = []

    class Process:
        def __init__(self, words, env):
            calls.append((words, env))

        def wait(self):
            return 3

        def terminate(self):
            pass

    monkeypatch.setattr(command_module.subprocess, "Popen", Process)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return calls


def test_it_serves_the_page_with_a_sensible_configuration(started):
    done = CliRunner().invoke(ui, ["--model", "some/model", "--port", "9000", "--no-browser"], standalone_mode=False)
    ((words, env),) = started
    assert done.return_value == 3
    assert words[:5] == [sys.executable, "-m", "streamlit", "run", str(APP)]
    assert {
        "--server.port=9000",
        "--server.headless=true",
        "--browser.gatherUsageStats=false",
        "--server.address=localhost",
        "--server.maxUploadSize=200",
    } <= set(words)
    assert env["ASSISTANT_PAGE_MODEL"] == "some/model"
    assert APP.is_file()


def test_a_browser_opens_by_default():
    assert "--server.headless=false" in command(8501, no_browser=False)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = CliRunner().invoke(ui, [])
    assert isinstance(done.exception, MissingExtraError) and "[ui]" in str(done.exception)


def test_an_empty_model_is_refused(started):
    assert isinstance(CliRunner().invoke(ui, ["--model", " "]).exception, InputError)
    assert not started
