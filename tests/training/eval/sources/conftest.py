"""A small training set on disk, with held-out objects in several styles, in place of the built one."""

import json
from types import SimpleNamespace

import pytest
from PIL import Image, ImageDraw

DEV = "lion guitar banana tent sock taxi kiwi".split()
TEST = "zebra crown carrot camera teapot dice harp".split()
TRAINED = [f"{first}{second}o" for first in "bdfgklmn" for second in ("af", "et", "ir", "om")]


def cutout(number: int) -> Image.Image:
    picture = Image.new("RGBA", (40, 40))
    colour = (number * 53 % 256, number * 91 % 256, number * 29 % 256)
    ImageDraw.Draw(picture).ellipse([4, 4, 24 + number % 12, 34], fill=colour)
    return picture


@pytest.fixture
def built(tmp_path, monkeypatch):
    """``home()`` and a built data set "default" under it."""
    folder = tmp_path / "default"
    (folder / "pictures").mkdir(parents=True)
    rows = []
    things = [(key, style, True) for key in DEV + TEST for style in ("fluent-3d", "google-flat", "clipart")]
    things += [(key, style, False) for key in TRAINED for style in ("fluent-3d", "google-flat", "clipart", "clipart")]
    things.append(("robot", "clipart", True))  # in one style alone: nothing for pairs of styles
    for number, (key, style, heldout) in enumerate(things):
        file = f"pictures/{style}-{key}-{number}.png"
        cutout(number).save(folder / file)
        row = {
            "id": f"{style}-{key}-{number}",
            "file": file,
            "style": style,
            "name": key,
            "article": "a",
            "object": key,
        }
        rows.append({**row, "aliases": [], "tags": [], "alpha": True, "heldout": heldout})
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "fingerprint").write_text("one")
    monkeypatch.setenv("ASSISTANT_HOME", str(tmp_path / "home"))
    for module in (
        "data.views",
        "data.unseen_style",
        "eval.sources.scenes",
        "eval.sources.followups",
        "eval.sources.rule",
    ):
        monkeypatch.setattr(f"training.{module}.build", lambda name, progress=None: folder)
    return folder


@pytest.fixture
def unseen(built, tmp_path, monkeypatch):
    """Emoji of the trained things in another style, and two that are not asked about: a person, and one not trained."""
    folder = tmp_path / "twitter"
    (folder / "package/img/twitter/64").mkdir(parents=True)
    (folder / "package/en").mkdir()
    emoji = [(f"1f{i:03d}", name) for i, name in enumerate(TRAINED)] + [("1f468", TRAINED[0]), ("1f999", "unknown")]
    for number, (code, _) in enumerate(emoji):
        cutout(number + 500).save(folder / f"package/img/twitter/64/{code}.png")
    table = [{"label": name, "hexcode": code.upper(), "group": 3, "tags": []} for code, name in emoji]
    (folder / "package/en/data.json").write_text(json.dumps(table))
    monkeypatch.setattr("training.data.unseen_style.fetch_package", lambda name, progress=None: folder)
    return SimpleNamespace(folder=folder)


@pytest.fixture
def fewer(monkeypatch):
    """Keep sets small: ``fewer(module, NAME=number)`` sets the numbers of both sets."""

    def set_numbers(module, **numbers):
        for name, number in numbers.items():
            value = {"dev": number, "test": number} if isinstance(getattr(module, name), dict) else number
            monkeypatch.setattr(module, name, value)

    return set_numbers


@pytest.fixture
def photographs(monkeypatch):
    """The photographs of the naming set by the committed list, without their files."""
    from pathlib import Path

    import yaml

    from training.eval import naming as module
    from training.eval.items import Example, leave_one_out

    nouns = yaml.safe_load((Path(module.__file__).parent / "naming_nouns.yaml").read_text("utf-8"))

    def naming(which, seed, progress=None):
        return leave_one_out(
            [
                Example(
                    f"{activity}-{stem}",
                    (Path(f"{which}/{stem}.webp"),),
                    "What?",
                    f"A {row['noun']}.",
                    tuple(row["accept"]),
                )
                for activity, rows in nouns[which].items()
                for stem, row in rows.items()
            ]
        )

    for source in ("categories", "interleaved"):
        monkeypatch.setattr(f"training.eval.sources.{source}.naming", naming)
    return naming
