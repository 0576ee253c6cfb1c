import json
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

import assistant
from assistant.errors import ModelError
from training.eval.task import task_names
from ui.cli import cli

COLOURS = ("red", "green", "blue", "white")


@pytest.fixture
def loaded(assembled, monkeypatch):
    """Stands for ``assistant.Assistant``: every name but "nope" is the tiny model."""
    model, processor = assembled(zero_init_output=False, initializer_range=0.3)
    real, names = assistant.Assistant, []

    class Loader:
        @staticmethod
        def from_pretrained(name):
            names.append(name)
            if name == "nope":
                raise ModelError("there is no model 'nope' here")
            return real(model.eval(), processor, name)

    monkeypatch.setattr(assistant, "Assistant", Loader)
    return names


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A task in the working directory."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"id": c, "picture": f"{c}.png", "question": "Hue?", "answer": c, "choices": COLOURS, "kind": c[:1]}
        for c in COLOURS
    ]
    for colour in COLOURS:
        Image.new("RGB", (20, 20), colour).save(tmp_path / f"{colour}.png")
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"name": "hues", "about": "say hues", "source": "jsonl", "source_args": {"file": "{set}.jsonl"}}
    fields |= {"metric": "one_of", "shots": [0, 1], "max_new_tokens": 3, "controls": ["swapped"]}
    (tmp_path / "hues.yaml").write_text(yaml.safe_dump(fields))
    return tmp_path


def evaluate(*arguments):
    return CliRunner().invoke(cli, ["eval", *arguments])


def test_help_lists_the_tasks_without_torch():
    code = "import sys; from ui.cli import cli\ntry: cli(['eval', '--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules, 'help must not wait for torch'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert {*task_names(), "diff"} <= set(words)


def test_help_of_a_task_names_its_defaults():
    result = evaluate("naming", "--help")
    assert result.exit_code == 0
    for option in "--set --shots --select --seeds --limit --model --out --batch-size --no-controls --json".split():
        assert option in result.stdout
    text = " ".join(result.stdout.split())
    assert "[default: 0]" in text and "zero_gates" in text


def test_a_run_leaves_its_folder(loaded, task):
    result = evaluate("hues.yaml")
    assert result.exit_code == 0, result.stderr
    folder = task / "runs/eval/hues-dev"
    assert {file.name for file in folder.iterdir()} == {
        "accuracy.png",
        "gallery.html",
        "predictions.jsonl",
        "report.json",
        "settings.json",
    }
    report = json.loads((folder / "report.json").read_text("utf-8"))
    assert [(row["control"], row["shots"]) for row in report["accuracy"] if row["kind"] == "all"] == [
        ("none", 0),
        ("none", 1),
        ("swapped", 0),
        ("swapped", 1),
    ]
    assert (
        "25.0 %" in result.stdout
        and "1 shots" in result.stdout
        and "swapped" in result.stdout
        and "hues-dev" in result.stdout
    )
    assert "hues, swapped" in result.stderr and "ETA" in result.stderr
    assert loaded == ["default"]


def test_options_reach_the_run(loaded, task):
    options = ["--shots", "2", "--select", "balanced", "--seeds", "2", "--limit", "3", "--batch-size", "2"]
    result = evaluate("hues.yaml", *options, "--model", "mine", "--out", "deep/er", "--no-controls", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report == json.loads((task / "deep/er/report.json").read_text("utf-8"))
    assert (report["task"], report["set"], report["model"]["name"]) == ("hues", "dev", "mine")
    row = report["accuracy"][0]
    assert (row["shots"], row["items"], row["asked"]) == (2, 3, 6)
    assert report["settings"]["select"] == "balanced" and report["settings"]["batch_size"] == 2


def test_another_run_needs_another_folder(loaded, task):
    assert evaluate("hues.yaml", "--shots", "0", "--no-controls").exit_code == 0
    assert evaluate("hues.yaml", "--shots", "0", "--no-controls").exit_code == 0, "the same run is found finished"
    result = evaluate("hues.yaml", "--shots", "1", "--no-controls")
    assert result.exit_code == 2
    assert "differs in settings: shots; give another --out" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["hue"], "there is no task 'hue'"),
        (["nameing"], "did you mean naming?"),
        (["absent.yaml"], "absent.yaml: cannot be read"),
        (["hues.yaml", "--set", "train"], "'dev', 'test'"),
        (["hues.yaml", "--shots", "four"], "'four' must be numbers of examples, 0 or more"),
        (["hues.yaml", "--shots", "0,-1"], "'0,-1' must be numbers"),
        (["hues.yaml", "--shots", "3.5"], "must be numbers"),
        (["hues.yaml", "--shots", "4"], "item red has 3 examples to show, and 4 were asked for"),
        (["hues.yaml", "--seeds", "0"], "--seeds"),
        (["hues.yaml", "--select", "best"], "'random', 'similar', 'balanced'"),
        (["hues.yaml", "--set", "test"], "test.jsonl: cannot be read"),
        (["diff", "absent", "absent"], "does not exist"),
        (["diff", ".", "."], "no finished run"),
    ],
)
def test_a_wrong_call_is_one_line_and_code_2(loaded, task, arguments, says):
    result = evaluate(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: ") and says in last


def test_an_unknown_model_ends_with_code_1(loaded, task):
    result = evaluate("hues.yaml", "--model", "nope")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "error: there is no model 'nope' here"


def test_two_runs_are_held_against_each_other(loaded, task):
    for name, shots in (("a", "0,1"), ("b", "0")):
        assert evaluate("hues.yaml", "--shots", shots, "--out", name, "--no-controls").exit_code == 0
    rows = [json.loads(line) for line in (task / "b/predictions.jsonl").read_text("utf-8").splitlines()]
    rows[0] |= {"right": not rows[0]["right"], "prediction": "[bold]changed"}
    (task / "b/predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = evaluate("diff", "a", "b")
    assert result.exit_code == 0, result.stderr
    assert "1 answers changed" in result.stdout and "[bold]changed" in result.stdout
    found = json.loads(evaluate("diff", "a", "b/report.json", "--json").stdout)
    assert abs(found["differences"][0]["difference"]) == 0.25 and len(found["changes"]) == 1
