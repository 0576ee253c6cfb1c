import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

import assistant
from assistant.errors import ModelError
from training.eval import naming
from training.eval.naming import Item
from ui.cli import cli

ITEMS = [
    Item("farm-cow", Path("cow.webp"), "cow", ("cow", "cattle")),
    Item("farm-dog", Path("dog.webp"), "dog", ("dog",)),
    Item("farm-duck", Path("duck.webp"), "duck", ("duck",)),
]
ANSWERS = {"cow.webp": "A cow.", "dog.webp": "Two dogs.", "duck.webp": "A goose — gänse"}


class Scripted:
    """Stands for ``assistant.Assistant``."""

    def __init__(self):
        self.model, self.loaded = torch.nn.Identity(), []

    def from_pretrained(self, name, **options):
        self.loaded.append(name)
        if name == "nope":
            raise ModelError("there is no model 'nope' here")
        return self

    def ask(self, question, images, **options):
        return SimpleNamespace(text=ANSWERS[images[0].name])


@pytest.fixture
def scripted(monkeypatch):
    fake = Scripted()
    fake.sets = []
    monkeypatch.setattr(assistant, "Assistant", fake)
    monkeypatch.setattr(naming, "load_items", lambda which, report: fake.sets.append(which) or ITEMS)
    return fake


def evaluate(*arguments):
    return CliRunner().invoke(cli, ["eval", "naming", *arguments])


def test_the_report_is_json_on_standard_output(scripted):
    result = evaluate("--set", "test", "--model", "mine", "--json")
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["set"], summary["model"]) == ("test", "mine")
    assert summary["accuracy"]["right"] == {"right": 2, "of": 3, "share": 2 / 3, "interval": [0.208, 0.939]}
    assert summary["accuracy"]["swapped"]["right"] == 0
    assert [row["answer"] for row in summary["answers"]["right"]] == list(ANSWERS.values())
    assert (scripted.sets, scripted.loaded) == (["test"], ["mine"])
    assert "zero_gates pictures" in result.stderr


def test_people_get_a_table(scripted):
    result = evaluate()
    assert result.exit_code == 0, result.stderr
    assert "Two dogs." in result.stdout
    assert "right        2 of 3  66.7 %" in result.stdout
    assert "swapped      0 of 3  0.0 %" in result.stdout
    assert (scripted.sets, scripted.loaded) == (["dev"], ["default"])


def test_all_answers_go_to_a_file_in_a_new_folder(scripted, tmp_path):
    out = tmp_path / "deep/er/naming.json"
    result = evaluate("--out", str(out), "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(out.read_text("utf-8")) == json.loads(result.stdout)
    assert "gänse" in out.read_text("utf-8")


def test_an_unknown_set_ends_with_code_2(scripted):
    result = evaluate("--set", "train")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert "'dev', 'test'" in result.stderr and not scripted.sets


def test_an_unknown_model_ends_with_code_1(scripted):
    result = evaluate("--model", "nope")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "error: there is no model 'nope' here"
