import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import pytest
from PIL import Image

from training.eval.gallery import MOST, save_gallery
from training.eval.items import Example, Item
from training.eval.report import Prediction, Report

ABOUT = {"task": {"name": "<hues>"}, "settings": {"set": "dev"}, "model": {"name": "ti&ny"}}


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.images, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data):
        self.text += data


def said(id, right, shots=0, prediction="blue", demos=(), control="none"):
    return Prediction(id, "", shots, 0, control, "Hue?", "red", prediction, right, list(demos), [])


@pytest.fixture
def page(tmp_path, files):
    def made(predictions, queries=None):
        queries = queries or [Example(row.id, (files[0],), "Hue?", "red") for row in predictions]
        pool = tuple(Example(f"d{i}", (file,), "Hue?", f"label{i}") for i, file in enumerate(files * 2))
        file = tmp_path / "gallery.html"
        save_gallery(Report(ABOUT, [], predictions, 0.0), [Item(query, pool) for query in queries], file)
        text = file.read_text("utf-8")
        assert not re.search(r"(src|href)=['\"]?(?!['\"]?data:)", text), "nothing outside the page"
        parsed = Page()
        parsed.feed(text)
        return parsed

    return made


def test_answers_stand_with_their_demonstrations(page):
    found = page([said("1", False, 2, demos=["d1", "d0"]), said("2", True, 2, demos=["d2", "d3"])])
    classes = [attrs["class"] for tag, attrs in found.tags if tag == "article"]
    assert classes == ["wrong", "right"]
    assert len(found.images) == 6
    assert found.text.index("label1") < found.text.index("label0") < found.text.index("red was wanted")
    assert all(image["alt"] for image in found.images)
    data = base64.b64decode(found.images[0]["src"].removeprefix("data:image/jpeg;base64,"))
    with Image.open(BytesIO(data)) as image:
        assert image.format == "JPEG" and max(image.size) <= 160


def test_what_a_model_says_is_no_html(page, files):
    bad = "<script>alert('x')</script>"
    query = Example(f"{bad}'", (files[0],), f"{bad}?", bad, history=((bad, "first"),), kind=bad)
    found = page([Prediction(query.id, bad, 0, 0, "none", "?", bad, bad, False, [], [])], [query])
    assert "script" not in [tag for tag, _ in found.tags]
    assert found.text.count(bad) >= 5 and "<hues>" in found.text and "ti&ny" in found.text
    assert found.images[0]["alt"] == f"picture 1 of {bad}'"


def test_only_the_last_of_many_demonstrations_are_shown(page):
    found = page([said("1", True, 12, demos=[f"d{i}" for i in range(12)])])
    assert len(found.images) == 9
    assert "4 earlier examples" in found.text and "label3" not in found.text and "label11" in found.text


@pytest.mark.parametrize(("right", "wrong"), [(0, 0.5), (0.9, 0.1), (1, 0), (0.5, 0.5)])
def test_there_are_not_too_many(page, right, wrong):
    rows = [said(str(i), i < 100 * right, shots) for shots in (0, 4) for i in range(100)]
    rows += [said(str(i), True, 0, control="swapped") for i in range(100)]
    found = page(rows, [Example(str(i), (), "Hue?", "red") for i in range(100)])
    classes = [attrs["class"] for tag, attrs in found.tags if tag == "article"]
    assert len(classes) == MOST
    if 0 < right < 1:
        assert classes.count("wrong") == (20 if wrong == 0.1 else 30)


def test_nothing_said_is_shown_as_nothing(page):
    assert "nothing" in page([said("1", False, prediction="")]).text
