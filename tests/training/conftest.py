"""A bridge small enough to be trained in a test: its parts on disk, features, and what makes a trainer of them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RENAME = {"<unused0>": "<image>", "<unused1>": "<|endofchunk|>"}
OBJECTS = "a cat/a dog/an owl/a red fox/some milk/a pair of shoes/a ladder/a bee/a cow/a bus/Mars/a pea".split("/")
FAMILIES = {
    "cat": ("a lion", "a tiger", "a lynx"),
    "house": ("a barn", "a hut", "a villa"),
    "toy": ("a kite", "a yoyo", "a doll"),
    "fish": ("an eel", "a carp", "a tuna"),
    "tree": ("an oak", "a fir", "a palm"),
    "boat": ("a canoe", "a punt", "a raft"),
}
HELD = 4  # a class of the tower without a name, which is never drawn
SHAPED = {"circle": "an owl/Mars/a pea", "rectangle": "a ladder/some milk/a bus", "triangle": "a red fox/a bee"}
PATCHES, WIDTH, FEATURES = 9, 12, 20  # of the tiny tower: its grid, its last map, and with an earlier one beside it


@pytest.fixture(scope="session")
def training_parts(tmp_path_factory, byte_tokenizer, image_processor) -> tuple[Path, Path]:
    """Directories of a tiny EfficientNet-Lite of 9 patches and 19 classes, and of a tiny LLaMA with its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from assistant.model.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel

    folder = tmp_path_factory.mktemp("training-parts")
    tokenizer = byte_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower = EfficientNetLiteModel(
            EfficientNetLiteConfig(
                width_coefficient=0.25,
                depth_coefficient=0.5,
                image_size=96,
                hidden_size=WIDTH,
                num_labels=19,
                initializer_range=1.0,
                batch_norm_momentum=1.0,
            )
        )
        tower.train()(torch.randn(8, 3, 96, 96))  # without statistics of its own, a deep random tower says nothing
        language_model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=24,
                intermediate_size=32,
                num_hidden_layers=3,
                num_attention_heads=2,
                max_position_embeddings=128,
                initializer_range=0.3,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    tower.save_pretrained(folder / "vision")
    image_processor.save_pretrained(folder / "vision")
    language_model.save_pretrained(folder / "language")
    tokenizer.save_pretrained(folder / "language")
    return folder / "vision", folder / "language"


@pytest.fixture(scope="session")
def bridge_fields() -> dict[str, Any]:
    """Fields of a tiny bridge that uses all that the default's bridge uses."""
    return {
        "vision_extra_layers": [[1, 1]],
        "resampler_width": 24,
        "resampler_depth": 1,
        "resampler_latents": 5,
        "resampler_heads": 2,
        "resampler_head_dim": 8,
        "resampler_ff_mult": 1,
        "resampler_dropout": 0.1,
        "resampler_positions": 9,
        "resampler_grid": 2,
        "standardise_features": True,
        "pooled_latents": True,
        "class_token": True,
        "cross_attention_layers": [0, 2],
        "cross_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "cross_attention_ff_mult": 1,
        "gate_init": 1.0,
        "zero_init_output": True,
    }


@pytest.fixture(scope="session")
def assembled(training_parts, bridge_fields) -> Callable[..., tuple[Any, Any]]:
    """Make a fresh tiny model and its processor; the same fields give the same weights."""
    import torch

    from assistant.model.assembly import assemble

    kept: dict[str, tuple[Any, Any]] = {}  # to copy is faster than to load

    def made(**fields: Any) -> tuple[Any, Any]:
        key = repr(sorted(fields.items()))
        if key not in kept:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                kept[key] = assemble(*training_parts, rename=RENAME, **{**bridge_fields, **fields})
        return copy.deepcopy(kept[key])

    return made


@pytest.fixture(scope="session")
def processor(assembled) -> Any:
    """Makes the prompts of the tiny model."""
    return assembled()[1]


@pytest.fixture(scope="session")
def seeing_model(assembled) -> Callable[[], Any]:
    """Make a tiny model whose pictures change the text, as after some training."""
    return lambda: assembled(zero_init_output=False, initializer_range=0.3)[0]


@pytest.fixture(scope="session")
def classifier() -> tuple[Any, Any]:
    """Weight [19, 12] and bias [19] of a classifier that tells its classes well apart."""
    import torch

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(19, WIDTH, generator=generator)
    weight = 6 * torch.nn.functional.normalize(weight - weight.mean(1, keepdim=True), dim=-1)
    return weight, torch.randn(19, generator=generator) / 10


@pytest.fixture(scope="session")
def make_cache(classifier) -> Callable[..., Any]:
    """Make features of pictures in some versions: every picture has a pattern of its own."""
    from training.bridge.features import FeatureCache

    def made(pictures: int, variants: int, seed: int) -> Any:
        rng = np.random.default_rng(seed)
        pattern = rng.uniform(0, 5, (pictures, 1, PATCHES, FEATURES))
        patches = (pattern + rng.uniform(0, 1, (pictures, variants, PATCHES, FEATURES))).astype(np.float16)
        weight, bias = (x.numpy() for x in classifier)
        logits = patches[..., :WIDTH].astype(np.float32).mean(2) @ weight.T + bias
        return FeatureCache(patches, logits.astype(np.float16))

    return made


@pytest.fixture(scope="session")
def cache(make_cache) -> Any:
    """Features of two drawings of each object, in three versions."""
    return make_cache(2 * len(OBJECTS), 3, 0)


@pytest.fixture(scope="session")
def scene_cache(make_cache) -> Any:
    """Features of forty scenes."""
    return make_cache(40, 1, 1)


@pytest.fixture(scope="session")
def pools() -> tuple[Any, Any]:
    """What lessons draw from: seven objects and thirty scenes to train on, five and ten to validate on.

    Every object has two styles, its first row of the one and its second of the other. Scenes show, in turn, one thing,
    copies of one, two things and three.
    """
    from training.bridge.pools import Pools
    from training.bridge.sight import truth_of
    from training.data.scenes import COLOURS, Thing

    names = [[name] for name in OBJECTS for _ in range(2)]
    class_names = [[name, f"a {word}"] for word, members in FAMILIES.items() for name in members]
    class_names.insert(HELD, [])
    numbers = [i for i in range(len(class_names)) if i != HELD]
    families = {word: numbers[3 * i : 3 * i + 3] for i, word in enumerate(FAMILIES)}
    rng = np.random.default_rng(0)
    single = [name.split() for name in OBJECTS if name.count(" ") == 1]
    things = []
    for i in range(40):
        count, kinds = ((1, 1), (int(rng.integers(2, 6)), 1), (2, 2), (3, 3))[i % 4]
        shown = rng.choice(len(single), kinds, replace=False)
        colours = rng.choice(list(COLOURS), kinds, replace=False)
        corners = rng.permutation(9)[:count]  # of a grid of three by three
        scene = []
        for j, corner in enumerate(corners):
            article, name = single[shown[j % kinds]]
            left, top = corner % 3 / 3, corner // 3 / 3
            box = (left, top, left + rng.uniform(0.1, 0.3), top + rng.uniform(0.1, 0.3))
            scene.append(Thing(name, article, name, str(colours[j % kinds]), tuple(map(float, box))))
        things.append(tuple(scene))
    truth = truth_of(things, 3)
    made = []
    for objects, scenes in ((range(7), range(30)), (range(7, 12), range(30, 40))):
        rows = np.array([row for i in objects for row in (2 * i, 2 * i + 1)])
        styles = {OBJECTS[i]: {"line": [2 * i], "flat": [2 * i + 1]} for i in objects}
        shapes = {
            shape: [row for row in rows.tolist() if names[row][0] in shaped.split("/")]
            for shape, shaped in SHAPED.items()
        }
        made.append(Pools(names, rows, styles, shapes, class_names, families, things, truth, np.array(scenes)))
    return made[0], made[1]


@pytest.fixture
def sampler(processor, cache, scene_cache, classifier) -> Callable[..., Any]:
    """Make a sampler of the drawings, the tower's classes and the scenes."""
    from training.bridge.samples import Sampler

    def made(seed: int = 0, patch_dropout: float = 0.0) -> Any:
        mean = cache.statistics(np.random.default_rng(0))[0]
        return Sampler(processor, cache, scene_cache, mean, classifier, seed, patch_dropout)

    return made


@pytest.fixture(scope="session")
def settings(bridge_fields) -> Callable[..., Any]:
    """Make the configuration of a short run."""
    from training.bridge.config import BridgeConfig, Stage

    def made(*stages: Any, **options: Any) -> Any:
        usual = Stage(6, 3e-3, 1e-3, {"naming": 4, "photo_naming": 4}, warmup=2)
        options = {"dtype": "float32", "log_every": 2, "evaluate_every": 4, "checkpoint_every": 2, **options}
        return BridgeConfig("vision", "language", bridge_fields, list(stages) or [usual], RENAME, **options)

    return made


@pytest.fixture
def trainer(assembled, sampler, cache, pools) -> Callable[..., Any]:
    """Make a trainer: fresh weights, unless the folder holds a checkpoint."""
    import torch

    from training.bridge.loss import BridgeLoss
    from training.bridge.trainer import BridgeTrainer

    def made(config: Any, folder: Path) -> Any:
        torch.manual_seed(config.seed)
        model = assembled(**config.model)[0]
        mean, std = cache.statistics(np.random.default_rng(0))
        model.model.resampler.feature_mean.data.copy_(mean)
        model.model.resampler.feature_std.data.copy_(std)
        loss = BridgeLoss(model, config.contrastive_weight, config.logit_noise)
        return BridgeTrainer(config, loss, sampler(config.seed, config.patch_dropout), pools, folder)

    return made
