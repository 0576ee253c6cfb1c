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
from training.bridge.run import classifier, initialise, prepare, training_rows
from training.data.imagenet import ImageNetClass
from training.data.scenes import Thing

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
from training.data.scenes import Thing

data, config, out = map(Path, sys.argv[1:])
run.build = lambda name, report=None: data
run.imagenet_classes = lambda: [ImageNetClass(**row) for row in json.loads((data / "classes.json").read_text())]
rows = json.loads((data / "scenes.json").read_text())
run.training_scenes = lambda count, report=None: [
    (data / file, tuple(Thing(**thing) for thing in things)) for file, things in rows[:count]
]
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
    """A built training set of 60 pictures, of which every tenth is of a held-out object, and 51 scenes."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(60):
        file = f"pictures/{i}.png"
        Image.fromarray(rng.integers(0, 255, (3, 3, 3), np.uint8)).resize((24, 24), 0).save(folder / file)
        row = {"id": str(i), "file": file, "name": f"thing {i}", "article": "a", "heldout": i % 10 == 7}
        rows.append({**row, "object": f"thing {i:02d}", "style": "flat"})
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scenes = []
    for i in range(51):
        Image.fromarray(rng.integers(0, 255, (2, 2, 3), np.uint8)).resize((24, 24), 0).save(folder / f"scene-{i}.png")
        thing = Thing(f"thing {i % 5}", "a", f"thing {i % 5}", ("red", "blue")[i % 2], (0.0, 0.1, 0.4, 0.5))
        scenes.append((f"scene-{i}.png", [vars(thing)]))
    (folder / "scenes.json").write_text(json.dumps(scenes))
    (folder / "classes.json").write_text(json.dumps([vars(item) for item in classes()]))
    return folder


@pytest.fixture
def statistics(cache):
    return cache.statistics(np.random.default_rng(0))


@pytest.fixture
def config(training_parts, bridge_fields):
    vision, language = map(str, training_parts)
    stage = Stage(3, 1e-3, 1e-4, {"naming": 2, "photo_naming": 2, "scene": 1}, look=2, warmup=1)
    rename = {"<unused0>": "<image>", "<unused1>": "<|endofchunk|>"}
    return BridgeConfig(vision, language, dict(bridge_fields), [stage], rename, variants=1, scenes=51, dtype="float32")


@pytest.fixture
def world(monkeypatch, data, tmp_path):
    """No packages: the data set and the classes of this file."""
    monkeypatch.setenv("ASSISTANT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(run, "build", lambda name, report=None: data)
    monkeypatch.setattr(run, "imagenet_classes", classes)
    scenes = json.loads((data / "scenes.json").read_text())
    monkeypatch.setattr(
        run,
        "training_scenes",
        lambda count, report=None: [
            (data / file, tuple(Thing(**t) for t in things)) for file, things in scenes[:count]
        ],
    )


def test_from_a_configuration_to_an_adapter(world, config, tmp_path):
    reports = []
    trainer = prepare(config, tmp_path / "run", lambda *report: reports.append(report))
    assert ("features", 54, 54) in reports and reports[-1] == ("features", 51, 51)
    train, validation = trainer.pools
    assert len(train.names) == 54
    assert [names[0] for names in train.names][6:8] == ["a thing 6", "a thing 8"]
    assert validation.pictures.tolist() == [0, 50] and validation.scenes.tolist() == [0, 50]
    assert sorted([*train.pictures, *validation.pictures]) == list(range(54))
    assert sorted([*train.scenes, *validation.scenes]) == list(range(51))
    assert train.truth.patches.shape == (51, 9)  # of the tower's own grid
    assert train.classes.tolist() == [0, 1, 2, 4]  # and no hammer
    assert trainer.run() is True
    notes = json.loads((tmp_path / "run/adapter/adapter.json").read_text())["training"]
    assert notes["pictures"] == 54 and notes["steps"] == 3
    assert notes["recipe"]["stages"][0]["lessons"] == {"naming": 2, "photo_naming": 2, "scene": 1}
    assert (tmp_path / "home/cache/features").is_dir()


def test_two_preparations_are_the_same(world, config, tmp_path):
    first, second = (prepare(config, tmp_path / name) for name in ("one", "two"))  # the second reuses the features
    for name, value in first.loss.state_dict().items():
        assert torch.equal(value, second.loss.state_dict()[name]), name


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


def test_the_classifier_is_that_of_the_tower(assembled):
    model = assembled()[0]
    weight, bias = classifier(model)
    with torch.no_grad():
        output = model.model.vision_tower(torch.rand(2, 3, 96, 96))
    torch.testing.assert_close(output.last_hidden_state.mean(1) @ weight.T + bias, output.logits)


def test_a_bridge_starts_from_statistics_and_the_words_of_the_classes(assembled, statistics):
    model, processor = assembled()
    before = model.model.resampler.class_embedding.weight.clone()
    initialise(model, *statistics, classes(), processor.tokenizer)
    resampler = model.model.resampler
    mean, std = statistics
    assert torch.equal(resampler.feature_mean, mean) and torch.equal(resampler.feature_std, std)
    words = model.get_input_embeddings().weight
    for item in classes():
        column = resampler.class_embedding.weight[:, item.index]
        ids = processor.tokenizer.encode(" " + item.name, add_special_tokens=False)
        torch.testing.assert_close(column, before[:, item.index] if item.heldout else words[ids].mean(0))


def test_classes_of_another_width_start_at_random(assembled, statistics):
    model, processor = assembled(resampler_width=16)
    before = model.model.resampler.class_embedding.weight.clone()
    initialise(model, *statistics, classes(), processor.tokenizer)
    assert torch.equal(before, model.model.resampler.class_embedding.weight)


def test_a_bridge_without_these_parts_is_left_alone(assembled, statistics):
    model, processor = assembled(standardise_features=False, class_token=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    initialise(model, *statistics, classes(), processor.tokenizer)
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
