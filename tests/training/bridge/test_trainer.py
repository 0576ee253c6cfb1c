import csv
import dataclasses
import json
import math
import sys

import numpy as np
import pytest
import torch

from assistant.errors import AssistantError, MissingExtraError
from assistant.model.adapter import Adapter, adapter_state, load_adapter
from training.bridge.config import Stage
from training.bridge.pools import Pools
from training.bridge.trainer import EVALUATION_STEP, BridgeTrainer, hash_seed, learning_rate, stage_at

ALONE = Stage(2, 3e-3, 1e-3, look=3, warmup=0)  # without the language model
FIRST = Stage(5, 3e-3, 1e-3, {"photo_naming": 3, "binding": 1}, form="plain", look=2, warmup=2)
SECOND = Stage(4, 1e-3, 1e-4, {"naming": 2, "ordinal": 2, "scene": 1}, warmup=0)
FEW = 8  # lessons and scenes of an evaluation


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Evaluations that are soon over."""
    monkeypatch.setattr("training.bridge.trainer.EVALUATED", FEW)
    monkeypatch.setattr("training.bridge.trainer.LOOKED_AT", FEW)


def log(folder):
    """What was logged, without the clock."""
    with (folder / "log.csv").open(newline="") as handle:
        return [{key: value for key, value in row.items() if key != "minutes"} for row in csv.DictReader(handle)]


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.trainable.items()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def blocks_of(run):
    """Names of the weights of the gated blocks."""
    blocks = {name for name in run.trainable if ".gated_cross_attention." in name}
    assert blocks
    return blocks


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


# The schedule


def test_the_rate_warms_up_and_decays():
    stage = Stage(12, 1.0, 0.2, {"naming": 1}, warmup=4)
    rates = [learning_rate(stage, step) for step in range(13)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[8] == pytest.approx(0.6)  # half way down
    assert rates[12] == pytest.approx(0.2)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert learning_rate(stage, 50) == pytest.approx(0.2)


def test_without_warm_up_a_stage_starts_at_its_rate():
    assert learning_rate(SECOND, 0) == 1e-3
    assert learning_rate(dataclasses.replace(SECOND, steps=1, warmup=1), 0) == 1e-3


def test_every_step_has_its_stage():
    stages = [FIRST, SECOND]
    assert [stage_at(stages, step) for step in (0, 4, 5, 8)] == [(FIRST, 0), (FIRST, 4), (SECOND, 0), (SECOND, 3)]
    assert stage_at(stages, 9) == (SECOND, 4)


def test_seeds_differ_in_every_number():
    seeds = [hash_seed(*numbers) for numbers in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert hash_seed(3, 4) == hash_seed(3, 4)


# A run


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_run_is_the_uninterrupted_one(trainer, settings, tmp_path, dtype):
    # Neither the log nor the checkpoints fall together with each other or with the end of a stage.
    config = settings(FIRST, SECOND, dtype=dtype, log_every=3, evaluate_every=4, checkpoint_every=2)
    whole = trainer(config, tmp_path / "whole")
    assert whole.run() is True and whole.step == 9

    stopping = trainer(config, tmp_path / "parts")
    step, train_step = [], stopping._train_step

    def crash():
        step.append(1)
        if len(step) == 6:
            raise KeyboardInterrupt
        return train_step()

    stopping._train_step = crash
    with pytest.raises(KeyboardInterrupt):
        stopping.run()
    second = trainer(config, tmp_path / "parts")
    assert second.step == 4
    assert second.run(stop_after=0) is False
    assert second.step == 5
    third = trainer(config, tmp_path / "parts")
    assert third.run() is True

    assert equal(weights(whole), weights(third))
    assert log(tmp_path / "whole") == log(tmp_path / "parts")
    assert [row["step"] for row in log(tmp_path / "parts")] == ["2", "3", "5", "7", "8"]
    for name in ("adapter.safetensors", "adapter.json"):
        assert (tmp_path / "whole/adapter" / name).read_bytes() == (tmp_path / "parts/adapter" / name).read_bytes()


def test_a_stage_that_only_looks_leaves_the_gated_blocks_alone(trainer, settings, tmp_path):
    run = trainer(settings(ALONE), tmp_path)
    before = weights(run)
    assert run.run() is True
    assert changed(before, weights(run)) == before.keys() - blocks_of(run)
    [row] = log(tmp_path)
    assert {key for key, value in row.items() if value} == {
        *("step", "learning_rate", "gradient_norm"),
        *("look/contrastive", "look/scene", "right/look/contrastive", "right/look/scene"),
    }


def test_a_stage_that_freezes_the_resampler_trains_the_gated_blocks_alone(trainer, settings, tmp_path):
    lessons = {"photo_naming": 3, "scene": 1}
    run = trainer(settings(ALONE, Stage(2, 3e-3, 1e-3, lessons, freeze_resampler=True)), tmp_path)
    run.run(stop_after=0)
    run.run(stop_after=0)
    before = weights(run)  # the optimizer remembers how the resampler moved
    assert run.run() is True and run.step == 4
    assert changed(before, weights(run)) == blocks_of(run)
    assert float(log(tmp_path)[-1]["loss/contrastive"]) == 0.0


def test_a_run_that_starts_with_a_look_resumes_after_every_step(trainer, settings, tmp_path):
    # The state of the optimizer grows at the second stage, and half of it rests at the third.
    frozen = dataclasses.replace(FIRST, steps=1, look=0, freeze_resampler=True)
    stages = ALONE, dataclasses.replace(FIRST, steps=1), frozen
    config = settings(*stages, log_every=3, evaluate_every=4, checkpoint_every=4)
    whole = trainer(config, tmp_path / "whole")
    whole.run()
    steps = []
    while not steps or steps[-1] < 4:
        parts = trainer(config, tmp_path / "parts")
        assert parts.run(stop_after=0) is (parts.step == 4)
        steps.append(parts.step)
    assert steps == [1, 2, 3, 4]
    assert equal(weights(whole), weights(parts))
    assert log(tmp_path / "whole") == log(tmp_path / "parts")


def test_a_run_depends_on_its_seed(trainer, settings, tmp_path):
    runs = [trainer(settings(seed=seed), tmp_path / str(i)) for i, seed in enumerate((0, 0, 1))]
    for run in runs:
        run.run()
    first, again, other = map(weights, runs)
    assert equal(first, again) and not equal(first, other)


def test_a_finished_run_is_left_as_it_is(trainer, settings, tmp_path):
    trainer(settings(), tmp_path).run()
    before = (tmp_path / "checkpoint.pt").read_bytes()
    assert trainer(settings(), tmp_path).run() is True
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_what_is_logged(trainer, settings, tmp_path):
    told = []
    trainer(settings(), tmp_path).run(lambda *arguments: told.append(arguments))
    assert [(step, steps) for step, steps, _ in told] == [(2, 6), (4, 6), (6, 6)]
    names = [f"loss/{kind}" for kind in ("naming", "photo_naming", "contrastive")]
    looks = [f"{what}/{kind}" for what in ("right", "swapped") for kind in ("naming", "photo_naming")]
    assert set(told[0][2]) == {*names, "learning_rate", "gradient_norm", "minutes"}
    assert set(told[1][2]) == set(told[2][2]) == set(told[0][2]) | set(looks)
    assert all(math.isfinite(value) for _, _, scalars in told for value in scalars.values())
    assert told[2][2]["learning_rate"] == np.mean([learning_rate(settings().stages[0], step) for step in (4, 5)])
    assert json.loads((tmp_path / "config.json").read_text())["stages"][0]["steps"] == 6
    assert list((tmp_path / "tensorboard").iterdir())


def test_evaluation_need_not_fall_on_a_logged_step(trainer, settings, tmp_path):
    trainer(settings(log_every=4, evaluate_every=3), tmp_path).run()
    rows = log(tmp_path)
    assert [row["step"] for row in rows] == ["2", "3", "5"]
    assert [bool(row["right/naming"]) for row in rows] == [True, False, True]


def test_evaluation_looks_at_pictures_that_are_not_trained_on(trainer, settings, tmp_path, monkeypatch):
    run = trainer(settings(), tmp_path)
    trained, looked = [], []
    draw_step, draw = run.sampler.draw_step, run.sampler.draw

    def watch_step(lessons, form, pools, step, process=0):
        trained.append((run.loss.training, tuple(lessons), form, step, run.pools.index(pools)))
        return draw_step(lessons, form, pools, step, process)

    def watch(kind, form, size, pools, step, process=0):
        looked.append((run.loss.training, form, size, step, run.pools.index(pools)))
        return draw(kind, form, size, pools, step, process)

    monkeypatch.setattr(run.sampler, "draw_step", watch_step)
    monkeypatch.setattr(run.sampler, "draw", watch)
    monkeypatch.setattr(Pools, "__eq__", object.__eq__)
    run.run()
    assert trained == [(True, ("naming", "photo_naming"), "chat", step, 0) for step in range(6)]
    assert set(looked) == {(False, "chat", FEW, EVALUATION_STEP, 1)}
    assert EVALUATION_STEP > 10**6  # and so draws nothing that is trained on


@torch.no_grad()
def test_evaluation_of_a_look_is_of_scenes_and_names_never_trained_on(trainer, settings, tmp_path):
    run = trainer(settings(ALONE), tmp_path)
    run.step = 1
    scalars = run.evaluate()
    look = run.sampler.draw_look(FEW, run.pools[1], EVALUATION_STEP)
    assert len(look.names) == len(look.truth.number) == FEW
    seen = run.loss.eval().look(look)
    assert scalars == pytest.approx({f"right/look/{key}": value.item() for key, value in seen.items()})
    assert set(scalars) == {"right/look/contrastive", "right/look/scene"}


@torch.no_grad()
def test_a_look_hides_no_lesson_in_the_evaluation(trainer, settings, tmp_path):
    stage = Stage(1, 1e-3, 1e-3, {"naming": 1, "scene": 1})
    found = []
    for look in (0, 2):
        run = trainer(settings(dataclasses.replace(stage, look=look)), tmp_path / str(look))
        run.step = 1
        found.append(run.evaluate())
    assert {key: found[1][key] for key in found[0]} == pytest.approx(found[0])


def test_evaluation_changes_nothing_and_repeats_itself(trainer, settings, tmp_path):
    run = trainer(settings(), tmp_path)
    run.step = 1
    run.loss.model.model.language_model.layers[0].gated_cross_attention.attention.to_out.weight.data.normal_()
    before = weights(run)
    first = run.evaluate()
    assert first == run.evaluate() and equal(before, weights(run))
    assert first["right/naming"] != first["swapped/naming"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_stops_the_run_before_the_step(trainer, settings, tmp_path, value):
    run = trainer(settings(), tmp_path)
    before = weights(run)
    run.loss.image_head.bias.register_hook(lambda gradient: gradient * value)
    with pytest.raises(AssistantError, match=r"the gradient is (nan|inf) at step 0; lower learning_rate"):
        run.run()
    assert equal(before, weights(run))
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.fixture
def gradients(trainer, settings, tmp_path):
    """Take one step of a stage without anything random: the trainer, its gradients before clipping, and its scalars."""

    def taken(stage, **options):
        still = {"logit_noise": 0.0, "max_grad_norm": 1e9}
        run = trainer(settings(stage, **still, **options), tmp_path)
        for module in run.loss.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        kept = {}
        run.optimizer.step = lambda: kept.update({name: p.grad for name, p in run.trainable.items()})
        run.optimizer.zero_grad = lambda **_: None
        return run, kept, run._train_step()

    return taken


def assert_gradients(run, kept, total):
    expected = torch.autograd.grad(total, list(run.trainable.values()), allow_unused=True)
    for (name, got), wanted in zip(kept.items(), expected, strict=True):
        assert (got is None) == (wanted is None), name
        if got is not None:
            torch.testing.assert_close(got, wanted, msg=name, atol=1e-4, rtol=1e-4)


def test_every_answer_of_a_step_weighs_the_same(gradients, pools):
    stage = Stage(1, 1e-3, 1e-3, {"naming": 3, "rule": 2, "binding": 1})
    run, kept, scalars = gradients(stage)
    batches = run.sampler.draw_step(stage.lessons, "chat", pools[0], 0)
    answers = [int(batch.answers.sum()) for batch in batches]
    assert len(answers) > 1 and sum(answers) >= 3 + 4 + 2
    losses = [run.loss(batch) for batch in batches]
    share = [count / sum(answers) for count in answers]
    assert_gradients(run, kept, sum(part * loss.total for part, loss in zip(share, losses, strict=True)))
    contrastive = sum(part * loss.contrastive.item() for part, loss in zip(share, losses, strict=True))
    assert scalars["loss/contrastive"] == pytest.approx(contrastive)
    for kind in stage.lessons:
        told = [loss.by_kind[kind] for loss in losses if kind in loss.by_kind]
        total, number = (sum(some) for some in zip(*told, strict=True))
        assert scalars[f"loss/{kind}"] == pytest.approx(total / number)


def test_a_look_adds_its_weighed_losses(gradients, pools):
    run, kept, scalars = gradients(Stage(1, 0, 0, {"naming": 3}, look=4), contrastive_weight=0.5, scene_weight=0.25)
    seen = run.loss.look(run.sampler.draw_look(4, pools[0], 0))
    [batch] = run.sampler.draw_step({"naming": 3}, "chat", pools[0], 0)
    naming = run.loss(batch)
    assert_gradients(run, kept, naming.total + 0.5 * seen["contrastive"] + 0.25 * seen["scene"])
    assert {key: scalars[f"look/{key}"] for key in seen} == pytest.approx({k: v.item() for k, v in seen.items()})


def test_only_matrices_decay_and_masters_are_exact(trainer, settings, tmp_path):
    run = trainer(settings(weight_decay=0.2, betas=[0.8, 0.9], dtype="bfloat16"), tmp_path)
    decayed, others = run.optimizer.param_groups
    assert decayed["weight_decay"] == 0.2 and others["weight_decay"] == 0.0
    assert all(p.ndim >= 2 for p in decayed["params"]) and all(p.ndim < 2 for p in others["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(run.trainable)
    assert decayed["betas"] == (0.8, 0.9)
    assert all(p.dtype == torch.float32 for p in run.trainable.values())


def test_no_more_is_trained_than_the_bridge(trainer, settings, tmp_path):
    run = trainer(settings(), tmp_path)
    before = {name: value.clone() for name, value in run.loss.state_dict().items()}
    run.run()
    assert changed(before, run.loss.state_dict()) == {
        name for name in run.trainable if not name.startswith("scene_head.")
    }  # no look in this run


# What a run leaves


@pytest.mark.parametrize("moment", ["torch.save", "os.replace"])
def test_a_checkpoint_is_whole_or_not_there(trainer, settings, tmp_path, monkeypatch, moment):
    run = trainer(settings(), tmp_path)
    run._train_step()
    run.step = 1
    run.save()
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def killed(*arguments, **options):
        if moment == "torch.save":
            arguments[1].write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"training.bridge.trainer.{moment}", killed)
        run._train_step()
        run.step = 2
        with pytest.raises(KeyboardInterrupt):
            run.save()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    again = trainer(settings(), tmp_path)
    assert again.step == 1
    again.run()
    assert not (tmp_path / "checkpoint.pt.tmp").exists()


def test_a_run_killed_while_its_last_adapter_is_written_writes_it_again(trainer, settings, tmp_path, monkeypatch):
    def killed(folder, *arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training.bridge.trainer.save_adapter", killed)
        with pytest.raises(KeyboardInterrupt):
            trainer(settings(checkpoint_every=100), tmp_path).run()
    trainer(settings(checkpoint_every=100), tmp_path).run()
    assert (tmp_path / "adapter/adapter.safetensors").is_file()


def test_the_adapter_is_the_trained_bridge(trainer, settings, assembled, sampler, pools, tmp_path):
    run = trainer(settings(), tmp_path)
    run.description = {"pictures": 10}
    run.run()
    adapter = Adapter.read(tmp_path / "adapter")
    assert (adapter.vision.name, adapter.language.name) == ("vision", "language")
    assert adapter.rename_tokens == run.config.rename_tokens
    assert adapter.training == {"pictures": 10, "steps": 6, "seed": 0}
    assert {key: adapter.model[key] for key in run.config.model} == run.config.model

    model = assembled(**adapter.model)[0]
    load_adapter(model, tmp_path / "adapter")
    with torch.no_grad():
        for parameter in adapter_state(run.loss.model).values():
            parameter.copy_(parameter.bfloat16())  # as the file has them
    batch = sampler().draw("naming", "plain", 4, pools[0], 0)
    logits = []
    for one in (run.loss.model.eval(), model):
        latents = one.model.resampler(batch.patches, batch.logits).unsqueeze(1)
        logits.append(one(input_ids=batch.input_ids, image_latents=latents).logits)
    assert torch.equal(*logits)


def test_a_run_learns_to_look(trainer, settings, pools, tmp_path):
    stage = Stage(100, 2e-2, 2e-3, {"naming": 5}, form="plain", warmup=5)
    run = trainer(settings(stage, logit_noise=0.0, log_every=100, checkpoint_every=100, evaluate_every=100), tmp_path)
    by_heart = dataclasses.replace(pools[0], pictures=np.array([0, 2, 4, 6]))
    run.pools = by_heart, by_heart
    run.step = 1
    before = run.evaluate()
    run.step = 0
    run.run()
    after = run.evaluate()
    assert before["right/naming"] == pytest.approx(before["swapped/naming"], abs=1e-4)  # the bare language model
    assert after["right/naming"] < before["right/naming"] / 2
    assert after["swapped/naming"] > 2 * after["right/naming"]


def test_without_accelerate_the_extra_is_named(monkeypatch, settings, tmp_path):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingExtraError, match=r"flamingo-assistant\[train\]"):
        BridgeTrainer(settings(), None, None, None, tmp_path)
