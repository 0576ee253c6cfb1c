import json

import pytest

from assistant.errors import InputError
from training.eval.sources import load_items
from training.eval.sources.jsonl import jsonl

ROW = {"question": "Hue?", "answer": "red", "picture": "red.png"}


@pytest.fixture
def rows(files):
    """Write lines beside the pictures."""

    def written(*lines, name="rows.jsonl"):
        file = files[0].parent / name
        file.write_text(
            "".join((line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)) + "\n" for line in lines),
            "utf-8",
        )
        return str(file)

    return written


def test_a_line_is_an_item(rows, files):
    first = {"id": "one", **ROW, "accept": ["red"], "choices": ["red", "blue"], "kind": "hue", "group": "g"}
    second = {"question": "Same as [img2]?", "answer": "no", "pictures": ["red.png", "blue.png"]}
    third = {"question": "And?", "answer": "ä\u2028", "history": [["Hue?", "blue"]], "picture": "blue.png"}
    one, two, three = load_items("jsonl", "dev", 0, {"file": rows(first, second, "", third)})
    assert (one.query.id, two.query.id, three.query.id) == ("one", "2", "4")
    assert (one.query.accept, one.query.choices, one.query.kind, one.query.group) == (
        ("red",),
        ("red", "blue"),
        "hue",
        "g",
    )
    assert two.query.pictures == (files[0], files[2])
    assert three.query.history == (("Hue?", "blue"),)
    assert one.pool == (three.query,), "others that show none of its pictures"


def test_demonstrations_from_another_file(rows):
    pool = rows({**ROW, "picture": "green.png"}, {**ROW, "picture": "red.png"}, name="pool.jsonl")
    [item] = jsonl("dev", 0, rows(ROW), pool)
    assert [example.pictures[0].name for example in item.pool] == ["green.png"]


def test_each_set_has_its_file(rows):
    rows(ROW, name="test.jsonl")
    rows(ROW, {**ROW, "picture": "blue.png"}, name="dev.jsonl")
    file = rows(ROW).replace("rows", "{set}")
    assert len(jsonl("dev", 0, file)) == 2 and len(jsonl("test", 0, file)) == 1


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([ROW, "{nonsense"], r"line 2: no valid JSON"),
        ([ROW, "[1]"], r"line 2: must be a mapping"),
        ([{**ROW, "anwser": "x"}], r"line 1: anwser is not known; did you mean answer"),
        ([{"question": "?", "picture": "red.png"}], r"line 1: answer is missing"),
        ([{**ROW, "answer": 3}], r"line 1: answer: must be str, got 3"),
        ([{**ROW, "answer": " "}], r"line 1: answer is empty"),
        ([{**ROW, "choices": "red"}], r"line 1: choices: must be a list"),
        ([{**ROW, "pictures": ["blue.png"]}], r"line 1: give picture or pictures, not both"),
        ([{**ROW, "history": [["a"]]}], r"line 1: history must be a list of \[question, answer\]"),
        ([{**ROW, "picture": "absent.png"}], r"line 1: there is no picture .*absent\.png"),
        ([{"id": "a", **ROW}, {"id": "a", **ROW}], r"line 2: id a is taken"),
        ([""], r"holds no question"),
    ],
)
def test_a_wrong_line_is_named(rows, lines, says):
    with pytest.raises(InputError, match=says):
        jsonl("dev", 0, rows(*lines))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"dev\.jsonl: cannot be read \(No such file"):
        jsonl("dev", 0, str(tmp_path / "{set}.jsonl"))
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        jsonl("dev", 0, str(tmp_path / "bytes.jsonl"))
