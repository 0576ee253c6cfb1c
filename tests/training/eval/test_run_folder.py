import json
import re
from pathlib import Path

import pytest
import torch

from assistant.errors import InputError
from training.eval.items import Example, Item
from training.eval.report import Prediction
from training.eval.run import Probe, Settings
from training.eval.run_folder import Predictions, describe, portable
from training.eval.task import Task

TASK = Task("hues", "jsonl")
ABOUT = {"task": {"name": "hues"}, "settings": {"shots": [0], "seeds": 1}, "items": "0f"}


def row(id):
    return Prediction(id, "", 0, 0, "none", "?", "a", f"said {id}", True, [], [])


def probe(id):
    return Probe(Example(id, (), "?", "a"), (), 0, 0, "none")


def test_predictions_come_back_in_whole_batches(tmp_path):
    store = Predictions(tmp_path, ABOUT)
    assert not store.take([probe("1"), probe("2")])
    store.add([row("1"), row("2")])
    store.add([row("3")])
    again = Predictions(tmp_path, ABOUT)
    assert again.take([probe("2"), probe("1")]) and again.rows == [row("1"), row("2")]
    assert not again.take([probe("3"), probe("4")])
    again.add([row("3"), row("4")])
    assert again.count("none") == 4 and again.count("swapped") == 0
    assert (tmp_path / "predictions.jsonl").read_text() == "".join(row(id).to_line() for id in "1234")


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Predictions(None, ABOUT)
    assert not store.take([probe("1")])
    store.add([row("1")])
    assert store.rows == [row("1")] and not list(tmp_path.iterdir())


def test_another_run_is_refused_and_kept(tmp_path):
    Predictions(tmp_path, ABOUT).add([row("1")])
    before = (tmp_path / "predictions.jsonl").read_bytes()
    other = {**ABOUT, "settings": {"shots": [0, 4], "seeds": 1}, "items": "1f"}
    with pytest.raises(InputError, match=re.escape("differs in items, settings: shots; give another --out")):
        Predictions(tmp_path, other)
    assert (tmp_path / "predictions.jsonl").read_bytes() == before


def test_predictions_that_do_not_fit_are_refused(tmp_path):
    Predictions(tmp_path, ABOUT).add([row("1")])
    with pytest.raises(InputError, match="does not fit its settings"):
        Predictions(tmp_path, ABOUT).take([probe("7")])


@pytest.mark.parametrize("line", ["nonsense\n", "[]\n", '{"id": "1"}\n'])
def test_a_damaged_folder_is_said(tmp_path, line):
    Predictions(tmp_path, ABOUT)
    (tmp_path / "predictions.jsonl").write_text(line)
    with pytest.raises(InputError, match="cannot hold a run"):
        Predictions(tmp_path, ABOUT)


def test_predictions_of_unknown_settings_are_refused(tmp_path):
    (tmp_path / "predictions.jsonl").write_text(row("1").to_line())
    with pytest.raises(InputError, match="unknown settings"):
        Predictions(tmp_path, ABOUT)
    with pytest.raises(InputError, match="cannot hold a run"):
        Predictions(tmp_path / "predictions.jsonl", ABOUT)


def test_the_description_tells_models_tasks_and_items_apart(tiny, items, files):
    def described(task=TASK, limit=None, asked=None):
        return describe(tiny, task, Settings.of(TASK, "dev", limit=limit), asked or items())

    usual = described()
    assert json.loads(json.dumps(usual)) == usual == described()
    assert usual["model"]["name"] == "tiny" and usual["model"]["dtype"] == "float32"
    assert described(limit=3)["settings"] != usual["settings"]
    assert described(asked=items(group="x"))["items"] != usual["items"]
    assert described(asked=items()[1:])["items"] != usual["items"]
    gate = next(p for name, p in tiny.model.named_parameters() if name.endswith("attention_gate"))
    with torch.no_grad():
        gate.add_(0.125)
        try:
            changed = described()["model"]
        finally:
            gate.sub_(0.125)
    assert changed["adapter"] != usual["model"]["adapter"] and changed["vision"] == usual["model"]["vision"]
    assert described() == usual


def test_items_are_told_apart_by_what_pictures_show(tiny, tmp_path, files):
    def hashed(folder, content):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "a.png").write_bytes(content)
        item = Item(Example("1", (tmp_path / folder / "a.png",), "?", "a"))
        return describe(tiny, TASK, Settings.of(TASK, "dev"), [item])["items"]

    red, green = (file.read_bytes() for file in files[:2])
    assert hashed("x", red) == hashed("y", red) != hashed("x", green)


def test_names_of_files_say_nothing_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("ASSISTANT_HOME", str(tmp_path))
    assert portable(tmp_path / "data/naming/cow.png") == "data/naming/cow.png"
    assert portable(Path("/somewhere/else/cow.png")) == "cow.png"
