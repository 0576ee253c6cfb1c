import io

from rich.console import Console

from ui.progress import PartProgress


def test_a_terminal_sees_a_bar_for_each_part_that_is_worked_on(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr("ui.progress.Console", lambda stderr: Console(file=screen, force_terminal=True, width=120))
    with PartProgress() as progress:
        progress("here-already", "ready", 10, 10)
        progress("language", "download", 5_000_000, 10_000_000)
        progress("language", "convert", 0, None)
        progress("language", "verify", 10_000_000, 10_000_000)
    shown = screen.getvalue()
    assert "0/? bytes" in shown
    assert "language: checking the hash" in shown
    assert "10.0/10.0 MB" in shown
    assert "here-already" not in shown
