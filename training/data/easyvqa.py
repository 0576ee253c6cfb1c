"""easy-VQA: somebody else's questions about one plain shape on a light ground. Nothing is trained on it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.data.packages import Progress, fetch_package

ANSWERS = "yes no circle rectangle triangle black blue brown gray green red teal yellow".split()
"""Every answer that its questions have."""

Kind = Literal["shape", "colour", "yes/no"]


@dataclass(frozen=True)
class Question:
    """A question as it stands in the package: small letters, American spelling.

    Attributes:
        id: unique within its split.
        picture: file, 64 x 64 pixels, RGB.
    """

    id: str
    picture: Path
    text: str
    answer: str

    @property
    def kind(self) -> Kind:
        """What is asked for, read off the answer."""
        if self.answer in ("yes", "no"):
            return "yes/no"
        return "shape" if self.answer in ("circle", "rectangle", "triangle") else "colour"


def easyvqa_questions(split: Literal["train", "test"], progress: Progress | None = None) -> list[Question]:
    """All questions of a split, in the package's order: 38,575 about 4,000 pictures, or 9,673 about 1,000.

    Args:
        split: of the package.
        progress: told when the package is fetched.

    Raises:
        FetchError: the package cannot be brought here.
    """
    folder = fetch_package("easy-vqa", progress=progress) / "easy_vqa/data" / split
    rows = json.loads((folder / "questions.json").read_text("utf-8"))
    return [
        Question(f"{split}-{number:05d}", folder / f"images/{picture}.png", text, answer)
        for number, (text, answer, picture) in enumerate(rows)
    ]
