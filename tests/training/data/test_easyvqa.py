import json

import pytest

from training.data import easyvqa
from training.data.easyvqa import ANSWERS, Question, easyvqa_questions


def test_questions_come_with_their_pictures(tmp_path, monkeypatch):
    folder = tmp_path / "easy_vqa/data/test"
    folder.mkdir(parents=True)
    (folder / "questions.json").write_text(json.dumps([["what is the red shape?", "triangle", 0], ["is it?", "no", 7]]))
    asked = []
    monkeypatch.setattr(easyvqa, "fetch_package", lambda name, progress=None: asked.append(name) or tmp_path)
    assert easyvqa_questions("test") == [
        Question("test-00000", folder / "images/0.png", "what is the red shape?", "triangle"),
        Question("test-00001", folder / "images/7.png", "is it?", "no"),
    ]
    assert asked == ["easy-vqa"]


@pytest.mark.parametrize(("answer", "kind"), [("no", "yes/no"), ("rectangle", "shape"), ("teal", "colour")])
def test_the_answer_says_what_was_asked_for(answer, kind, tmp_path):
    assert Question("1", tmp_path, "?", answer).kind == kind
    assert answer in ANSWERS and len(set(ANSWERS)) == 13
