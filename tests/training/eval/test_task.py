import re

import pytest
import yaml

from assistant.errors import ConfigError
from training.eval.sources import SOURCES
from training.eval.task import FOLDER, load_task, task_names


@pytest.fixture
def written(tmp_path):
    def write(**fields):
        file = tmp_path / "mine.yaml"
        file.write_text(yaml.safe_dump({"name": "mine", "source": "jsonl", **fields}))
        return str(file)

    return write


@pytest.mark.parametrize("name", task_names())
def test_every_task_of_the_package_is_read(name):
    task = load_task(name)
    assert task.name == name and task.about
    assert task.source in SOURCES
    assert (FOLDER / f"{name}.yaml").is_file()


def test_a_file_is_a_task(written):
    task = load_task(written(metric="exact", shots=[0, 4], source_args={"file": "rows.jsonl"}))
    assert (task.name, task.metric, task.shots, task.select) == ("mine", "exact", [0, 4], "random")


def test_files_of_questions_lie_beside_the_task(written, tmp_path):
    args = {"file": "rows.jsonl", "pool": "/elsewhere/pool.jsonl"}
    assert load_task(written(source_args=args)).source_args == {
        "file": str(tmp_path / "rows.jsonl"),
        "pool": "/elsewhere/pool.jsonl",
    }


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"metrics": "exact"}, "metrics is not known; did you mean metric?"),
        ({"metric": "contain"}, "metric: must be one of contains, exact, one_of, format, got 'contain'"),
        ({"shots": [4, -1]}, "0 or more, got [4, -1]"),
        ({"shots": []}, "shots must be numbers"),
        ({"shots": 4}, "shots: must be a list"),
        ({"shots": ["four"]}, "must be int, got 'four'"),
        ({"controls": ["swap"]}, "must be one of no_image, swapped"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(written, fields, says):
    file = written(**fields)
    with pytest.raises(ConfigError, match=re.escape(says)) as raised:
        load_task(file)
    assert file in str(raised.value)


def test_an_unknown_task_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="no task 'nameing'; did you mean naming"):
        load_task("nameing")
    with pytest.raises(ConfigError, match=r"no task 'zzz'; known are .*naming.*or give a YAML file"):
        load_task("zzz")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_task(str(tmp_path / "absent.yaml"))
