import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from assistant.errors import ConfigError
from training.bridge.features import FeatureCache, cache_features
from training.data.augment import place


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Five pictures, one of them cut out and one in grey."""
    folder = tmp_path_factory.mktemp("pictures")
    modes = {"RGB": "red", "RGBA": (0, 200, 0, 0), "L": 90}
    files = []
    for i, mode in enumerate(["RGB", "RGBA", "L", "RGB", "RGB"]):
        picture = Image.new(mode, (30 + i, 24), modes[mode])
        picture.paste(Image.new(mode, (12, 12), {"RGB": "blue", "RGBA": "purple", "L": 200}[mode]), (6 + i, 6))
        picture.save(folder / f"{i}.png")
        files.append(folder / f"{i}.png")
    return files


@pytest.fixture
def model(assembled):
    """A model, and how often its tower was asked."""
    model = assembled()[0].model
    calls = []
    model.vision_tower.register_forward_pre_hook(lambda module, arguments: calls.append(len(arguments[0])))
    return model, calls


@pytest.fixture
def cached(model, pictures, tmp_path):
    def made(folder=tmp_path, variants=2, **options):
        return cache_features(model[0], options.pop("pictures", pictures), variants, folder, batch_size=2, **options)

    return made


def same(first, second):
    return np.array_equal(first.patches, second.patches) and np.array_equal(first.logits, second.logits)


def test_features_are_those_of_the_augmented_pictures(model, pictures, cached):
    cache = cached(seed=7)
    assert cache.patches.shape == (5, 2, 9, 20) and cache.logits.shape == (5, 2, 19)
    for i, file in enumerate(pictures):
        for variant in range(2):
            with Image.open(file) as picture:
                source = picture if picture.mode in ("RGB", "RGBA") else picture.convert("RGBA")
                placed = place(source, np.random.default_rng([7, i, variant]), 96)
            pixels = (torch.from_numpy(np.array(placed)).permute(2, 0, 1).float() - 127) / 128
            with torch.no_grad():
                output = model[0].vision_tower(pixels[None])
                beside = model[0].image_features(pixels[None])[0][0, 0, :, 12:]
            np.testing.assert_allclose(cache.patches[i, variant, :, :12], output.last_hidden_state[0], atol=0.02)
            np.testing.assert_allclose(cache.patches[i, variant, :, 12:], beside, atol=0.02)
            np.testing.assert_allclose(cache.logits[i, variant], output.logits[0], atol=0.05)
    assert min(np.ptp(cache.patches[..., :12]), np.ptp(cache.patches[..., 12:])) > 1  # or nothing was compared
    assert not np.array_equal(cache.patches[:, 0], cache.patches[:, 1])


def test_scenes_are_taken_as_they_are(model, pictures, cached):
    cache = cached(variants=1, augment=False, seed=7)
    for i, file in enumerate(pictures):
        with Image.open(file) as picture:
            plain = picture.convert("RGB").resize((96, 96), Image.Resampling.BICUBIC)
        pixels = (torch.from_numpy(np.array(plain)).permute(2, 0, 1).float() - 127) / 128
        with torch.no_grad():
            patches, logits = model[0].image_features(pixels[None])
        np.testing.assert_allclose(cache.patches[i, 0], patches[0, 0], atol=0.02)
        np.testing.assert_allclose(cache.logits[i, 0], logits[0, 0], atol=0.05)


def test_a_tower_without_classes_is_refused(assembled, pictures, tmp_path):
    model = assembled(class_token=False)[0].model
    with pytest.raises(ConfigError, match="it needs class_token: true"):
        cache_features(model, pictures, 1, tmp_path)


def test_a_cache_is_computed_once(model, cached):
    reports = []
    first = cached(progress=lambda *report: reports.append(report))
    assert reports == [("features", 2, 5), ("features", 4, 5), ("features", 5, 5)]
    asked = len(model[1])
    assert same(first, cached(progress=lambda *report: reports.append(report)))
    assert len(model[1]) == asked + 1  # a look at the shapes
    assert len(reports) == 3


@pytest.mark.parametrize("change", [{"seed": 1}, {"variants": 3}, {"augment": False}, {"pictures": slice(3)}], ids=str)
def test_other_settings_are_another_cache(cached, pictures, tmp_path, change):
    cached()
    if "pictures" in change:
        change = {"pictures": pictures[change["pictures"]]}
    other = cached(**change)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2
    assert other.patches.shape[:2] == (len(change.get("pictures", pictures)), change.get("variants", 2))


def test_another_tower_is_another_cache(model, cached):
    first = cached()
    with torch.no_grad():
        model[0].vision_tower.head.conv.weight.mul_(1.5)
    second = cached()
    assert not np.array_equal(first.patches, second.patches)


def test_other_layers_are_another_cache(model, assembled, pictures, cached, tmp_path):
    first = cached()
    model = assembled(vision_extra_layers=[])[0].model
    second = cache_features(model, pictures, 2, tmp_path, batch_size=2)
    assert second.patches.shape == (5, 2, 9, 12)
    np.testing.assert_array_equal(second.patches, first.patches[..., :12])


def test_another_picture_of_the_same_name_is_another_cache(cached, pictures, tmp_path):
    first = cached(folder=tmp_path / "cache")
    copies = [shutil.copy(file, tmp_path / file.name) and tmp_path / file.name for file in pictures]
    assert same(first, cached(folder=tmp_path / "cache", pictures=copies))
    Image.new("RGB", (64, 64), "white").save(copies[0])
    assert not same(first, cached(folder=tmp_path / "cache", pictures=copies))


def test_an_interrupted_run_goes_on_where_it_stopped(model, cached, tmp_path, monkeypatch):
    monkeypatch.setattr("training.bridge.features.FLUSH_EVERY", 2)
    whole = cached(folder=tmp_path / "whole")

    def stop(what, done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(folder=tmp_path / "parts", progress=stop)
    model[1].clear()
    assert same(whole, cached(folder=tmp_path / "parts"))
    assert model[1] == [1, 1, 1]  # the shapes, then two versions of the fifth picture


def test_reading_gives_patches_as_they_are_kept_and_logits_in_float32(cache):
    patches, logits = cache.read(np.array([4, 1, 4]), np.array([0, 2, 1]))
    assert patches.shape == (3, 9, 20) and logits.shape == (3, 19)
    assert (patches.dtype, logits.dtype) == (torch.float16, torch.float32)
    assert np.array_equal(patches[1], cache.patches[1, 2])
    assert np.array_equal(logits[2], cache.logits[4, 1])


def test_statistics_are_those_of_the_first_versions(cache):
    mean, std = cache.statistics(np.random.default_rng(0))
    values = cache.patches[:, 0].astype(np.float32).reshape(-1, 20)
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(std, values.std(0, ddof=1), rtol=1e-5)
    few = cache.statistics(np.random.default_rng(0), samples=3)[0]
    assert not torch.equal(few, mean)
    assert torch.equal(few, cache.statistics(np.random.default_rng(0), samples=3)[0])


def test_a_channel_that_never_changes_can_be_divided_by(cache):
    flat = FeatureCache(np.ones_like(cache.patches), cache.logits)
    assert (flat.statistics(np.random.default_rng(0))[1] > 0).all()
