import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from assistant.errors import ConfigError, ModelError
from training.bridge import run
from training.bridge.config import BridgeConfig, Stage
from training.bridge.run import class_names, classifier, initialise, prepare, training_rows, with_article
from training.bridge.samples import Name, Sampler
from training.data.imagenet import ImageNetClass

NAMES = ["lion", "barn", "kite", "hammer", "harp"]
COARSE = ["cat", None, "toy", None, "string instrument"]

# One process of two: trains, stops where only the clock of one says so, resumes, and leaves its weights.
PROCESS = """
import json, os, sys
from pathlib import Path
import torch
from training.bridge import run
from training.bridge.config import BridgeConfig
from training.config import load_config
from training.data.imagenet import ImageNetClass

data, config, out = map(Path, sys.argv[1:])
run.build = lambda name, report=None: data
run.imagenet_classes = lambda: [ImageNetClass(**row) for row in json.loads((data / "classes.json").read_text())]
settings, rank = load_config(BridgeConfig, config), int(os.environ["RANK"])
trainer = run.prepare(settings, out)
assert trainer.accelerator.num_processes == 2
assert not trainer.run(stop_after=0 if rank == 1 else 1e9)
stopped = trainer.step
trainer.accelerator.wait_for_everyone()
trainer = run.prepare(settings, out)
assert trainer.step == stopped == 1, (trainer.step, stopped)
assert trainer.run()
torch.save({name: p.detach() for name, p in trainer.trainable.items()}, out / f"weights-{rank}.pt")
"""


def classes():
    return [
        ImageNetClass(i, name, "a", (), "", coarse, name == "hammer")
        for i, (name, coarse) in enumerate(zip(NAMES, COARSE, strict=True))
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A built training set of 60 pictures; every tenth is of a held-out object."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(60):
        file = f"pictures/{i}.png"
        Image.fromarray(rng.integers(0, 255, (3, 3, 3), np.uint8)).resize((24, 24), 0).save(folder / file)
        rows.append({"id": str(i), "file": file, "name": f"thing {i}", "article": "a", "heldout": i % 10 == 7})
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "classes.json").write_text(json.dumps([vars(item) for item in classes()]))
    return folder


@pytest.fixture
def config(training_parts, bridge_fields):
    vision, language = map(str, training_parts)
    stage = Stage(3, 4, {"caption": 1, "photo_chat": 1}, 1e-3, 1e-4, warmup=1)
    rename = {"<unused0>": "<image>", "<unused1>": "<|endofchunk|>"}
    return BridgeConfig(vision, language, dict(bridge_fields), [stage], rename, variants=1, dtype="float32")


@pytest.fixture
def world(monkeypatch, data, tmp_path):
    """No packages: the data set and the classes of this file."""
    monkeypatch.setenv("ASSISTANT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(run, "build", lambda name, report=None: data)
    monkeypatch.setattr(run, "imagenet_classes", classes)


def test_from_a_configuration_to_an_adapter(world, config, tmp_path):
    reports = []
    trainer = prepare(config, tmp_path / "run", lambda *report: reports.append(report))
    assert reports[-1] == ("features", 54, 54)
    assert len(trainer.sampler.picture_names) == 54
    assert [options[0].text for options in trainer.sampler.picture_names][6:8] == ["a thing 6", "a thing 8"]
    assert trainer.pictures.validation.tolist() == [0, 50]
    assert sorted([*trainer.pictures.train, *trainer.pictures.validation]) == list(range(54))
    assert trainer.run() is True
    notes = json.loads((tmp_path / "run/adapter/adapter.json").read_text())["training"]
    assert notes["pictures"] == 54 and notes["steps"] == 3
    assert notes["recipe"]["stages"][0]["mix"] == {"caption": 1, "photo_chat": 1}
    assert (tmp_path / "home/cache/features").is_dir()


def test_two_preparations_are_the_same(world, config, tmp_path):
    first, second = (prepare(config, tmp_path / name) for name in ("one", "two"))  # the second reuses the features
    for name, value in first.plain.state_dict().items():
        assert torch.equal(value, second.plain.state_dict()[name]), name


def test_parts_of_the_catalog_are_fetched(world, config, tmp_path, monkeypatch, training_parts):
    places = dict(zip(("efficientnet-lite2", "smollm2-135m-instruct"), training_parts, strict=True))
    monkeypatch.setattr(run, "ensure_part", places.pop)
    config.vision, config.language = places
    prepare(config, tmp_path / "run")
    assert not places


def test_an_unknown_field_of_the_model_is_refused_before_anything_is_fetched(config, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "ensure_part", None)
    monkeypatch.setattr(run, "build", None)
    config.vision = "efficientnet-lite2"
    config.model["resampler_widht"] = 3
    with pytest.raises(ConfigError, match="model: resampler_widht is not known; did you mean resampler_width"):
        prepare(config, tmp_path / "run")


def test_a_model_that_does_not_fit_its_parts_is_refused(world, config, tmp_path):
    config.model["cross_attention_layers"] = [0, 30]
    with pytest.raises(ConfigError, match=r"model: cross_attention_layers \[30\] are outside the 3 layers"):
        prepare(config, tmp_path / "run")


def test_a_part_that_is_not_there_is_named(world, config, tmp_path):
    config.language = str(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"the language part .*nowhere cannot be loaded"):
        prepare(config, tmp_path / "run")


def test_held_out_pictures_are_no_training_rows(data):
    rows = training_rows(data)
    assert len(rows) == 54 and not any(row["heldout"] for row in rows)


def test_names_carry_their_article():
    assert with_article("an", "owl") == "an owl"
    assert with_article("", "fireworks") == "fireworks"


def test_a_class_is_also_called_by_the_word_above_it():
    lion, barn = map(class_names, classes()[:2])
    assert [(name.text, name.share) for name in lion] == [("a lion", 1.0), ("a cat", 1.0)]
    assert [name.text for name in barn] == ["a barn"]
    owl = ImageNetClass(0, "great grey owl", "a", (), "", "owl", False)
    assert [name.text for name in class_names(owl)] == ["a great grey owl"]  # says it already
    assert class_names(ImageNetClass(0, "robin", "a", (), "", "animal", False))[1].text == "an animal"


def test_a_held_out_class_has_no_name_and_is_never_drawn(assembled, cache):
    held = [item.index for item in classes() if item.heldout]
    assert held and all(class_names(classes()[index]) == [] for index in held)
    model, processor = assembled()
    names = [class_names(item) for item in classes()]
    sampler = Sampler(processor, cache, [[Name("a thing")]] * len(cache.patches), names, classifier(model), seed=0)
    assert not set(held) & set(sampler.classes)


def test_the_classifier_is_that_of_the_tower(assembled):
    model = assembled()[0]
    weight, bias = classifier(model)
    with torch.no_grad():
        output = model.model.vision_tower(torch.rand(2, 3, 96, 96))
    torch.testing.assert_close(output.last_hidden_state.mean(1) @ weight.T + bias, output.logits)


def test_a_bridge_starts_from_statistics_and_the_words_of_the_classes(assembled, cache):
    model, processor = assembled()
    before = model.model.resampler.class_embedding.weight.clone()
    initialise(model, cache, classes(), processor.tokenizer, seed=0)
    resampler = model.model.resampler
    mean, std = cache.statistics(np.random.default_rng(0))
    assert torch.equal(resampler.feature_mean, mean) and torch.equal(resampler.feature_std, std)
    words = model.get_input_embeddings().weight
    for item in classes():
        column = resampler.class_embedding.weight[:, item.index]
        ids = processor.tokenizer.encode(" " + item.name, add_special_tokens=False)
        torch.testing.assert_close(column, before[:, item.index] if item.heldout else words[ids].mean(0))


def test_classes_of_another_width_start_at_random(assembled, cache):
    model, processor = assembled(resampler_width=16)
    before = model.model.resampler.class_embedding.weight.clone()
    initialise(model, cache, classes(), processor.tokenizer, seed=0)
    assert torch.equal(before, model.model.resampler.class_embedding.weight)


def test_a_bridge_without_these_parts_is_left_alone(assembled, cache):
    model, processor = assembled(standardise_features=False, class_token=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    initialise(model, cache, classes(), processor.tokenizer, seed=0)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


@pytest.mark.slow
@pytest.mark.parametrize("contrastive_weight", [0.3, 0.0])
def test_two_processes_stay_together(config, data, tmp_path, contrastive_weight):
    config.contrastive_weight = contrastive_weight
    script, settings = tmp_path / "process.py", tmp_path / "c.yaml"
    script.write_text(PROCESS)
    tree = {**vars(config), "stages": [vars(stage) for stage in config.stages]}
    settings.write_text(json.dumps(tree))  # JSON is YAML
    # accelerate launch starts several processes on GPUs only; on a CPU this is the way, with the same variables.
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "ASSISTANT_HOME": str(tmp_path / "home")}
    env |= {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(Path(run.__file__).parents[2]),
    }
    command = [sys.executable, *launch, str(script), str(data), str(settings), str(tmp_path / "run")]
    with (tmp_path / "output").open("w+") as output:
        started = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=output, stderr=output, start_new_session=True)
        try:
            code = started.wait(timeout=200)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGTERM)  # torchrun ends the processes that wait for each other
            code = started.wait(timeout=60)
    assert code == 0, (tmp_path / "output").read_text()
    first, second = (torch.load(tmp_path / f"run/weights-{rank}.pt") for rank in (0, 1))
    assert first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())
