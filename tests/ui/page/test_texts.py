import ast
import re
import string
from pathlib import Path

import pytest

pytest.importorskip("streamlit")

from ui import page
from ui.page.texts import _TEXTS, Texts
from ui.progress import STAGES

MODULES = list(Path(page.__file__).parent.glob("*.py"))


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("key", _TEXTS)
def test_both_languages_say_the_same(key):
    english, chinese = _TEXTS[key]
    assert english.strip() and chinese.strip()
    assert fields(english) == fields(chinese)


def test_every_text_that_is_asked_for_is_there():
    asked = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and re.fullmatch(r"(page\.)?say", ast.unparse(node.func)):
                asked |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    assert asked and asked <= set(_TEXTS)


def test_every_stage_of_loading_has_a_text():
    assert {f"stage_{stage}" for stage in {*STAGES, "load"} - {"ready"}} <= set(_TEXTS)


def test_an_unknown_language_is_english():
    assert Texts("xx")("new") == "New chat"
    assert Texts("zh")("version", at=1, all=2) == "第 1/2 个"
