import json
from collections import Counter

import pytest

from assistant.errors import InputError
from training.eval import run
from training.eval.items import Example, Item
from training.eval.run import Settings, evaluate, plan, spread
from training.eval.task import CONTROLS, Task

TASK = Task("hues", "jsonl", metric="one_of", shots=[0, 2], max_new_tokens=4, controls=list(CONTROLS))


def settings(**changes):
    return Settings.of(TASK, "dev", **{"batch_size": 4, "seeds": 2, **changes})


def test_settings_are_the_tasks_unless_told_otherwise():
    assert Settings.of(TASK, "dev", shots=None, limit=None) == Settings("dev", (0, 2), "random", CONTROLS)
    changed = Settings.of(TASK, "test", shots=(1,), controls=(), seeds=3)
    assert (changed.shots, changed.controls, changed.seeds, changed.set) == ((1,), (), 3, "test")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"batch_size": -1}, "batch size must be at least 1, got -1"),
        ({"shots": (1, -2)}, "0 or more, got 1, -2"),
        ({"shots": (1, 1)}, "must be different"),
        ({"shots": ()}, "must be different numbers"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, says):
    with pytest.raises(InputError, match=says):
        settings(**changes)


def test_a_limit_draws_the_same_items_every_time_and_favours_no_kind():
    kinds = ("count", "colour", "place", "size")
    items = [Item(Example(str(i), (), "?", "a", kind=kinds[i % 4])) for i in range(400)]
    some = spread(items, 100)
    assert spread(items, 100) == some and [item.query.id for item in some] == sorted(
        (i.query.id for i in some), key=int
    )
    assert min(Counter(item.query.kind for item in some).values()) >= 15
    assert spread(items, None) == spread(items, 500) == items


def test_the_plan_asks_everything_once(items):
    groups = plan(TASK, items(), settings())
    counts = {(group[0].control, group[0].shots): len(group) for group in groups}
    assert counts == {
        **{(control, 0): 6 for control in ("none", "no_image", "swapped", "zero_gates")},
        **{(control, 2): 12 for control in ("none", *CONTROLS)},
    }
    keys = Counter((p.query.id, p.shots, p.seed, p.control) for group in groups for p in group)
    assert set(keys.values()) == {1}
    assert plan(TASK, items(), settings()) == groups


def test_controls_keep_the_demonstrations(items):
    probes = {(p.query.id, p.seed, p.control): p for g in plan(TASK, items(), settings(shots=(2,))) for p in g}
    for (id, seed, control), probe in probes.items():
        plain = probes[id, seed, "none"]
        assert [demo.id for demo in probe.demos] == [demo.id for demo in plain.demos]
        assert id not in [demo.id for demo in probe.demos]
        assert (probe.demos == plain.demos) or control == "shuffled_labels"
        assert (probe.query.pictures == plain.query.pictures) is (control not in ("no_image", "swapped"))
        assert probe.query.accepted == plain.query.accepted
    assert any(probes[id, seed, "none"].demos != p.demos for (id, seed, c), p in probes.items() if c == CONTROLS[2])
    draws = {tuple(demo.id for demo in p.demos) for p in probes.values()}
    assert len(draws) > 8, "demonstrations are drawn for each item and seed"


def test_similar_demonstrations_are_the_same_for_every_seed(items):
    groups = plan(TASK, items(), settings(select="similar", controls=()), lambda one, other: len(one.id))
    assert [len(group) for group in groups] == [6, 6]


def test_more_shots_than_examples_are_refused(tiny, items):
    with pytest.raises(InputError, match="item red has 5 examples to show, and 6 were asked for"):
        evaluate(tiny, TASK, items(), settings(shots=(6,)))


@pytest.fixture(scope="module")
def whole(tiny, items, tmp_path_factory):
    """A finished run and its folder."""
    folder = tmp_path_factory.mktemp("run") / "deep" / "er"
    return evaluate(tiny, TASK, items(), settings(), folder=folder), folder


def test_a_run_reports_what_was_said(whole):
    report, folder = whole
    assert len(report.predictions) == 4 * 6 + 5 * 12
    assert {row.control for row in report.accuracy} == {"none", *CONTROLS}
    assert {row.kind for row in report.accuracy} == {"all", "warm", "cold"}
    assert report.find(2).asked == 12 and report.find(2).items == 6
    assert all(row.chance == pytest.approx(1 / 6) for row in report.accuracy)
    lines = (folder / "predictions.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [json.loads(row.to_line()) for row in report.predictions]
    zero = {row.prediction for row in report.predictions if row.control == "zero_gates" and row.shots == 0}
    assert len(zero) == 1, "closed gates see no picture"


def test_the_answers_are_those_of_ask(whole, tiny, items):
    report, _ = whole
    queries = {item.query.id: item for item in items()}
    for row in report.predictions:
        if row.control == "none":
            item = queries[row.id]
            pool = {example.id: example for example in item.pool}
            demos = [(pool[id].pictures[0], pool[id].question, pool[id].answer) for id in row.demos]
            answer = tiny.ask(row.question, item.query.pictures, demos, max_new_tokens=4)
            assert row.prediction == answer.text


def test_the_same_run_writes_the_same_bytes(whole, tiny, items, tmp_path):
    again = evaluate(tiny, TASK, items(), settings(), folder=tmp_path)
    assert (tmp_path / "predictions.jsonl").read_bytes() == (whole[1] / "predictions.jsonl").read_bytes()
    assert again.accuracy == whole[0].accuracy
    assert evaluate(tiny, TASK, items(), settings()).predictions == again.predictions, "a folder is not needed"


@pytest.mark.parametrize("after", [0, 1, 5, 9])
def test_an_interrupted_run_goes_on_to_the_same_bytes(whole, tiny, items, tmp_path, monkeypatch, after):
    calls = []
    answer = run.answer

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return answer(*arguments)

    monkeypatch.setattr(run, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny, TASK, items(), settings(), folder=tmp_path)
    monkeypatch.setattr(run, "answer", lambda *arguments: calls.append(1) or answer(*arguments))
    calls.clear()
    report = evaluate(tiny, TASK, items(), settings(), folder=tmp_path)
    batches = 4 * 2 + 5 * 3
    assert len(calls) == batches - after, "no batch is computed twice"
    assert (tmp_path / "predictions.jsonl").read_bytes() == (whole[1] / "predictions.jsonl").read_bytes()
    assert report.accuracy == whole[0].accuracy


@pytest.mark.parametrize("cut", [1, 150, 1500])
def test_half_a_batch_is_computed_again(whole, tiny, items, tmp_path, cut):
    for name in ("settings.json", "predictions.jsonl"):
        (tmp_path / name).write_bytes((whole[1] / name).read_bytes())
    content = (tmp_path / "predictions.jsonl").read_bytes()
    (tmp_path / "predictions.jsonl").write_bytes(content[:-cut])
    evaluate(tiny, TASK, items(), settings(), folder=tmp_path)
    assert (tmp_path / "predictions.jsonl").read_bytes() == content


def test_a_finished_run_asks_nothing(whole, tiny, items, monkeypatch):
    monkeypatch.setattr(run, "answer", None)
    monkeypatch.setattr(tiny.engine, "tokens", None)
    seen = []
    report = evaluate(tiny, TASK, items(), settings(), folder=whole[1], progress=lambda *step: seen.append(step))
    assert report.predictions == whole[0].predictions
    assert seen[:2] == [("hues", 6, 18), ("hues", 18, 18)] and seen[-1] == ("hues, zero_gates", 18, 18)


def test_progress_reaches_its_end_for_every_control(tiny, items):
    steps = []
    evaluate(tiny, TASK, items(), settings(controls=("swapped",)), progress=lambda *step: steps.append(step))
    assert [step for step in steps if step[0] == "hues"] == [("hues", n, 18) for n in (4, 6, 10, 14, 18)]
    assert steps[-1] == ("hues, swapped", 18, 18)
    assert ("pictures", 6, 6) in steps


def test_similar_demonstrations_are_chosen_by_the_tower(tiny, items):
    report = evaluate(tiny, TASK, items(), settings(select="similar", controls=(), shots=(1, 5)))
    last = {row.id: row.demos[-1] for row in report.predictions if row.shots == 5}
    only = {row.id: row.demos[0] for row in report.predictions if row.shots == 1}
    assert last == only and len(set(only.values())) > 1
