import sys

import pytest
from PIL import Image

from assistant.errors import MissingExtraError
from training.eval.plot import save_plot
from training.eval.report import Accuracy, Report

ABOUT = {"task": {"name": "hues", "shots_mean": "per_answer"}, "settings": {"set": "dev"}, "model": {"name": "tiny"}}


def report(*shots):
    rows = [
        Accuracy(count, control, kind, 10, 10, 5, 0.5, (0.3, 0.7), None, 0.25)
        for control in ("none", "shuffled_labels")
        for count in shots
        for kind in ("all", "warm")
        if count or control == "none"
    ]
    return Report(ABOUT, rows, [], 0.0)


@pytest.mark.parametrize("shots", [(0,), (0, 1, 4, 16), (4, 2)])
def test_the_plot_is_a_picture(tmp_path, shots):
    save_plot(report(*shots), tmp_path / "accuracy.png")
    with Image.open(tmp_path / "accuracy.png") as image:
        assert image.format == "PNG" and image.width > 600
        colours = {colour for _, colour in image.convert("RGB").getcolors(2**24)}
    assert (31, 119, 180) in colours, "the line of the task"


def test_no_matplotlib_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"matplotlib is not installed; .*\[train\]"):
        save_plot(report(0), tmp_path / "accuracy.png")
