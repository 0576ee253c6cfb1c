import importlib

import pytest

from assistant.errors import ConfigError
from training.eval import sources
from training.eval.items import Example, Item
from training.eval.sources import SOURCES, load_items

ITEM = Item(Example("1", (), "?", "a"))


def made(which, seed, size, extra=0, progress=None):
    """A source that tells what it was given."""
    if progress:
        progress("made", 1, 1)
    return [Item(Example(f"{which} {seed} {size} {extra}", (), "?", "a"))] * size


def plain(which, seed):
    return [ITEM]


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setattr(sources, "SOURCES", {name: f"{__name__}:{name}" for name in ("made", "plain", "absent")})
    module = type("Module", (), {"made": staticmethod(made), "plain": staticmethod(plain)})
    monkeypatch.setattr(sources.importlib, "import_module", lambda name: module)


def test_a_source_is_called_with_its_arguments():
    told = []
    [item] = load_items("made", "dev", 7, {"size": 1, "extra": 2}, lambda *step: told.append(step))
    assert item.query.id == "dev 7 1 2" and told == [("made", 1, 1)]
    assert load_items("plain", "test", 0, {}, print) == [ITEM]


@pytest.mark.parametrize(
    ("source", "arguments", "says"),
    [
        ("mad", {}, "source: mad is not known; did you mean made"),
        ("made", {"sise": 1}, "source_args of made: sise is not known; did you mean size"),
        ("made", {"size": 1, "progress": 2}, "progress is not known"),
        ("made", {}, "size is missing"),
        ("made", {"size": 0}, "gave no items for dev"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(source, arguments, says):
    with pytest.raises(ConfigError, match=says):
        load_items(source, "dev", 0, arguments)


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_is_there(name, monkeypatch):
    monkeypatch.undo()
    module, _, function = SOURCES[name].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
