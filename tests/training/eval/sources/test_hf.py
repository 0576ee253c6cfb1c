import sys

import pytest
from PIL import Image

from assistant.errors import InputError, MissingExtraError
from training.eval.sources.hf import hf


@pytest.fixture(scope="module")
def saved(files, tmp_path_factory):
    """A folder of a data set with the splits validation and train."""
    import datasets

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "q": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["a hue", "no hue"]),
            "answers": datasets.List(datasets.Value("string")),
        }
    )
    rows = [{"image": str(file), "q": f"Hue {i}?", "label": i % 2, "answers": ["x"]} for i, file in enumerate(files)]
    splits = {"validation": rows[:2], "train": rows[2:]}
    table = datasets.DatasetDict({k: datasets.Dataset.from_list(v, features=features) for k, v in splits.items()})
    folder = tmp_path_factory.mktemp("hf") / "set"
    table.save_to_disk(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ASSISTANT_HOME", str(tmp_path))
    return tmp_path


def test_rows_become_items_and_pictures_files(saved, home, files):
    steps = []
    arguments = {"question": "q", "answer": "label", "accept": "answers", "pool": "train"}
    items = hf("dev", 0, saved, **arguments, progress=lambda *step: steps.append(step))
    first, second = (item.query for item in items)
    assert (first.id, first.question, first.answer, first.accept) == ("validation-0", "Hue 0?", "a hue", ("x",))
    assert second.answer == "no hue"
    assert [example.id for example in items[0].pool] == [f"train-{i}" for i in range(4)]
    assert first.pictures[0].is_relative_to(home)
    with Image.open(first.pictures[0]) as kept, Image.open(files[0]) as original:
        assert kept.tobytes() == original.tobytes()
    assert (f"validation of {saved}", 2, 2) in steps
    before = first.pictures[0].stat().st_mtime_ns
    assert hf("dev", 0, saved, **arguments) == items and first.pictures[0].stat().st_mtime_ns == before


def test_one_question_and_the_same_choices_for_all(saved):
    items = hf("test", 0, saved, splits={"test": "train"}, ask="Hue?", answer="label", choices=["a hue", "no hue"])
    assert {(item.query.question, item.query.choices) for item in items} == {("Hue?", ("a hue", "no hue"))}
    assert len(items) == 4 and all(len(item.pool) == 3 for item in items)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "name the column of the question"),
        ({"question": "q", "ask": "Hue?"}, "name the column of the question"),
        ({"question": "text"}, "no column 'text' for question; it has image, q, label, answers"),
        ({"ask": "Hue?", "splits": {"dev": "nope"}}, "split 'nope', cannot be loaded"),
        ({"ask": "Hue?", "dataset": "./no/such/folder"}, r"data set './no/such/folder', split 'validation', cannot"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(saved, arguments, says):
    with pytest.raises(InputError, match=says):
        hf("dev", 0, **{"dataset": saved, "answer": "label", **arguments})


def test_no_datasets_is_said(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match="datasets is not installed"):
        hf("dev", 0, saved, ask="Hue?")
