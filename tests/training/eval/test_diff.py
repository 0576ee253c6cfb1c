import json

import pytest

from assistant.errors import InputError
from training.eval.diff import compare
from training.eval.report import Prediction


@pytest.fixture
def run(tmp_path):
    """Write the folder of a run from ``{(id, seed, shots, control): right}``."""

    def written(name, right, task="hues", which="dev", question="Hue?"):
        folder = tmp_path / name
        folder.mkdir()
        report = {"task": task, "set": which, "model": {"name": name}, "accuracy": []}
        (folder / "report.json").write_text(json.dumps(report))
        rows = [
            Prediction(id, "", shots, seed, control, question, "red", f"{name} says\u2028{ok}", ok, [], [])
            for (id, seed, shots, control), ok in right.items()
        ]
        (folder / "predictions.jsonl").write_text("".join(row.to_line() for row in rows), "utf-8")
        return folder

    return written


def plain(*right, shots=0, control="none"):
    return {(str(i), 0, shots, control): bool(ok) for i, ok in enumerate(right)}


def test_a_difference_is_paired(run):
    a = run("a", plain(1, 1, 0, 0) | plain(1, 0, 0, 0, control="swapped"))
    b = run("b", plain(1, 0, 1, 1) | plain(1, 0, 0, 0, control="swapped"))
    found = compare(a, b)
    assert (found.task, found.set, found.models) == ("hues", "dev", ("a", "b"))
    main, control = found.differences
    assert (main.control, main.items, main.a, main.b, main.difference) == ("none", 4, 0.5, 0.75, 0.25)
    assert main.interval[0] < 0.25 < main.interval[1]
    assert (control.control, control.difference, control.interval) == ("swapped", 0, (0, 0))
    assert [(change.id, change.better) for change in found.changes] == [("1", False), ("2", True), ("3", True)]
    assert found.changes[0].a == "a says\u2028True"
    assert json.loads(json.dumps(found.to_tree()))["differences"][0]["difference"] == 0.25


def test_a_run_against_itself_differs_in_nothing(run):
    folder = run("a", plain(1, 0, 1))
    found = compare(folder, folder / "report.json")
    assert found.differences[0].difference == 0 and not found.changes


def test_only_what_both_were_asked_counts(run):
    a = run("a", plain(1, 1, 1, 1))
    b = run("b", plain(0, 1) | plain(0, 0, shots=4))
    [row] = compare(a, b).differences
    assert (row.items, row.a, row.b) == (2, 1, 0.5)


def test_seeds_of_an_item_count_as_one(run):
    a = run("a", {("1", seed, 4, "none"): True for seed in range(4)} | {("2", 0, 4, "none"): True})
    b = run("b", {("1", seed, 4, "none"): False for seed in range(4)} | {("2", 0, 4, "none"): True})
    [row] = compare(a, b).differences
    assert (row.items, row.difference, len(compare(a, b).changes)) == (2, -0.5, 4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": "forms"}, "differ in task: .* is of hues, .* of forms"),
        ({"which": "test"}, "differ in set"),
        ({"question": "Colour?"}, "item 0 is not the same"),
        ({"right": plain(1, shots=8)}, "share no item"),
    ],
)
def test_runs_that_cannot_be_compared(run, changes, says):
    a, b = run("a", plain(1, 0)), run("b", **{"right": plain(1, 0), **changes})
    with pytest.raises(InputError, match=says):
        compare(a, b)


def test_a_folder_without_a_run_is_named(run, tmp_path):
    folder = run("a", plain(1))
    with pytest.raises(InputError, match=r"nope is no finished run .*report\.json cannot be read"):
        compare(folder, tmp_path / "nope")
    (folder / "predictions.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="is damaged"):
        compare(folder, folder)
