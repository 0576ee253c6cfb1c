from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import training
from training.bridge import run as bridge_run
from training.bridge.config import BridgeConfig
from ui.cli import cli

DEFAULT = str(Path(training.__file__).parent / "configs/default.yaml")


class Scripted:
    """Stands for a trainer."""

    steps = 100

    def __init__(self, done=True):
        self.done, self.step, self.stop_after = done, 100 if done else 40, None

    def run(self, progress, stop_after):
        self.stop_after = stop_after
        progress(40, 100, {"loss/caption": 2.514, "right/caption": 1.0, "minutes": 3.0})
        return self.done


@pytest.fixture
def prepared(monkeypatch):
    """What was prepared: (configuration, folder, whether reports are wanted); and the trainer."""
    calls, trainer = [], Scripted()

    def prepare(config, folder, report):
        calls.append((config, folder, report is not None))
        return trainer

    monkeypatch.setattr(bridge_run, "prepare", prepare)
    monkeypatch.delenv("RANK", raising=False)
    return calls, trainer


@pytest.fixture
def nothing_is_fetched(monkeypatch):
    """Whoever fetches fails."""

    def fetched(*arguments, **options):
        raise AssertionError("something was fetched")

    for name in ("ensure_part", "build", "imagenet_classes"):
        monkeypatch.setattr(bridge_run, name, fetched)


def bridge(*arguments):
    return CliRunner().invoke(cli, ["train", "bridge", *arguments])


def test_a_finished_run_says_where_the_adapter_is(prepared, tmp_path):
    result = bridge(DEFAULT, "--out", str(tmp_path / "run"))
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'run/adapter'}: done\n"
    assert "steps" in result.stderr and "caption 2.51" in result.stderr
    [(config, folder, reports)], trainer = prepared
    assert isinstance(config, BridgeConfig) and folder == tmp_path / "run" and reports
    assert trainer.stop_after is None


def test_a_stopped_run_says_how_it_goes_on(prepared, tmp_path):
    prepared[1].__init__(done=False)
    result = bridge(DEFAULT, "--out", str(tmp_path), "--stop-after", "1.5")
    assert result.stdout == f"{tmp_path / 'adapter'}: stopped at step 40 of 100; the same command goes on\n"
    assert prepared[1].stop_after == 90


def test_a_run_is_named_after_its_configuration(prepared):
    assert bridge(DEFAULT).exit_code == 0
    assert prepared[0][0][1] == Path("runs/default")


def test_values_can_be_set(prepared, tmp_path):
    result = bridge(DEFAULT, "--set", "stages.1.steps=7", "--set", "seed=3", "--set", "model.gate_init=0.5")
    assert result.exit_code == 0, result.stderr
    config = prepared[0][0][0]
    assert (config.stages[1].steps, config.seed, config.model["gate_init"]) == (7, 3, 0.5)


def test_only_the_first_process_talks(prepared, monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "1")
    result = bridge(DEFAULT, "--out", str(tmp_path))
    assert (result.exit_code, result.stdout) == (0, "")
    assert prepared[0][0][2] is False


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("--set", "stepss=3"), "error: {file}: stepss is not known; did you mean stages?"),
        (("--set", "model.resampler_widht=3"), "error: model: resampler_widht is not known; did you mean"),
        (("--set", "seed=x"), "error: {file}: seed: must be int, got 'x'"),
        (("--set", "stages.0.lessons.chta=1"), "error: {file}: stages[0]: lessons: must be one of naming,"),
        (("--set", "seed"), "error: --set seed: write it as key=value"),
    ],
)
def test_a_wrong_configuration_ends_with_code_2_before_anything_is_fetched(nothing_is_fetched, tmp_path, change, told):
    result = bridge(DEFAULT, "--out", str(tmp_path / "run"), *change)
    assert (result.exit_code, result.stdout) == (2, "")
    [line] = [line for line in result.stderr.splitlines() if line.strip()]
    assert line.startswith(told.format(file=DEFAULT))
    assert not (tmp_path / "run").exists()


def test_an_unknown_key_in_the_file_ends_with_code_2(nothing_is_fetched, tmp_path):
    tree = yaml.safe_load(Path(DEFAULT).read_text())
    tree["varients"] = tree.pop("variants")
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree))
    result = bridge(str(path))
    assert result.exit_code == 2
    assert result.stderr == f"error: {path}: varients is not known; did you mean variants?\n"


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"vision: ["])
def test_a_file_that_is_no_configuration_ends_with_code_2(nothing_is_fetched, tmp_path, content):
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    result = bridge(str(path))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {path}: ") and result.stderr.count("\n") == 1
