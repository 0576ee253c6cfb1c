import pytest
import yaml

from assistant.errors import ConfigError
from training.bridge.config import BridgeConfig, Stage
from training.config import load_config

SMALLEST = {
    "vision": "v",
    "language": "l",
    "model": {},
    "stages": [{"steps": 1, "lessons": {"naming": 2}, "learning_rate": 0.1, "final_learning_rate": 0}],
}


@pytest.fixture
def load(tmp_path):
    """Load the smallest configuration with changes."""

    def loaded(*overrides):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(SMALLEST))
        return load_config(BridgeConfig, tmp_path / "c.yaml", overrides)

    return loaded


def test_the_smallest_configuration_loads(load):
    [stage] = load().stages
    assert stage.lessons == {"naming": 2} and stage.form == "chat"


def test_a_stage_without_lessons_looks_at_something(load):
    [stage] = load("stages.0.lessons={}", "stages.0.look=3").stages
    assert (stage.lessons, stage.look) == ({}, 3)
    assert Stage(1, 0.1, 0.0, look=1).lessons == {}


def test_a_frozen_resampler_does_not_look(load):
    assert load("stages.0.freeze_resampler=true").stages[0].freeze_resampler
    with pytest.raises(ConfigError, match="set look or freeze_resampler, not both"):
        load("stages.0.freeze_resampler=true", "stages.0.look=1")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("stages=[]", "stages is empty"),
        (
            "stages.0.steps=0",
            r"stages\[0\]: steps and every number of lessons must be at least 1, got 0, {'naming'",
        ),
        ("stages.0.lessons={}", "a stage without lessons must look at something: set look"),
        ("stages.0.look=-1", r"stages\[0\]: "),
        ("stages.0.lessons={naming: 0}", "every number of lessons must be at least 1"),
        ("stages.0.lessons={naming: 1, rule: -1}", "every number of lessons must be at least 1"),
        ("stages.0.lessons={naming: 1.5}", "lessons.naming: must be int, got 1.5"),
        ("stages.0.lessons={nmaing: 1}", "lessons: must be one of naming, photo_naming, .*, got 'nmaing'"),
        ("stages.0.form=prose", "form: must be one of plain, chat, got 'prose'"),
        ("dtype=bf16", "dtype: must be one of bfloat16, float32, got 'bf16'"),
        ("log_every=0", "log_every must be at least 1, got 0"),
        ("evaluate_every=0", "evaluate_every must be at least 1"),
        ("checkpoint_every=-1", "checkpoint_every must be at least 1"),
        ("variants=0", "variants must be at least 1"),
        ("scenes=0", "scenes must be at least 1"),
        ("betas=[0.9]", "betas must be two numbers"),
    ],
)
def test_a_run_that_cannot_be_made_is_refused(load, override, told):
    with pytest.raises(ConfigError, match=told):
        load(override)
