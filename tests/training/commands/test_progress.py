import io

import pytest
from rich.console import Console

from training.commands.progress import bars


@pytest.fixture
def screen(monkeypatch):
    """What a terminal shows."""
    text = io.StringIO()

    def console(stderr):
        assert stderr  # standard output is for results
        return Console(file=text, force_terminal=True, width=140)

    monkeypatch.setattr("training.commands.progress.Console", console)
    return text


def test_every_work_has_a_bar_with_its_count_and_note(screen):
    with bars() as report:
        report("features", 1, 4)
        report("features", 4, 4)
        report("steps", 20, 80, "caption 2.51")
    shown = screen.getvalue()
    assert "features" in shown and "4/4" in shown
    assert "20/80" in shown and "caption 2.51" in shown and "ETA" in shown


def test_a_total_may_become_known_later(screen):
    with bars() as report:
        report("download", 1, None)
        report("download", 2, 8)
    assert "2/8" in screen.getvalue()


def test_without_reports_nothing_is_drawn(screen):
    with bars():
        pass
    assert "%" not in screen.getvalue() and "/" not in screen.getvalue().replace("\x1b", "")
