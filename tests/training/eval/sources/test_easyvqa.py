import json

import pytest

from training.eval.metrics import exact
from training.eval.sources import easyvqa as module
from training.eval.sources.easyvqa import easyvqa, training_questions

ASKED = [
    ("what is the blue shape?", "circle"),
    ("what color is the shape?", "gray"),
    ("is there a circle?", "yes"),
    ("is no circle present?", "no"),
]


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    for split, pictures in (("train", 60), ("test", 3)):
        folder = tmp_path / "easy_vqa/data" / split
        folder.mkdir(parents=True)
        rows = [[text, answer, picture] for picture in range(pictures) for text, answer in ASKED]
        (folder / "questions.json").write_text(json.dumps(rows))
    monkeypatch.setattr("training.data.easyvqa.fetch_package", lambda name, progress=None: tmp_path)
    monkeypatch.setattr(module, "POOL", 20)
    return tmp_path


def test_dev_is_a_part_of_the_training_split_and_test_is_the_test_split(package):
    dev, test = easyvqa("dev", 0), easyvqa("test", 0)
    assert {item.query.pictures[0].relative_to(package / "easy_vqa/data").as_posix() for item in dev} == {
        f"train/images/{picture}.png" for picture in (0, 20, 40)
    }
    assert {item.query.pictures[0].parts[-3] for item in test} == {"test"}
    assert len(dev) == len(test) == 12


@pytest.mark.parametrize("which", ["dev", "test"])
def test_demonstrations_are_other_training_pictures(which):
    [pool] = {item.pool for item in easyvqa(which, 0)}
    assert len(pool) == 20 and {example.pictures[0].parts[-3] for example in pool} == {"train"}
    assert all(int(example.pictures[0].stem) % 20 for example in pool)
    assert easyvqa(which, 1)[0].pool != pool


def test_questions_and_answers_are_as_the_package_has_them():
    queries = [item.query for item in easyvqa("test", 0)[:4]]
    assert [(query.question, query.answer) for query in queries] == ASKED
    assert [query.kind for query in queries] == ["shape", "colour", "yes/no", "yes/no"]
    assert all(len(query.choices) == 13 and query.answer in query.choices for query in queries)
    assert exact("Grey.", queries[1]) and exact("gray", queries[1]) and not exact("green", queries[1])


def test_baselines_learn_from_what_dev_does_not_ask():
    dev, others = training_questions()
    assert len(dev) == 12 and len(others) == 57 * 4
    assert not {example.pictures for example in dev} & {example.pictures for example in others}
