"""What the frozen tower says of every training picture, computed once and kept on disk."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor

from assistant.errors import ConfigError
from assistant.model import FlamingoModel
from assistant.model.adapter import fingerprint
from training.data.augment import place

Progress = Callable[[str, int, int], None]

FLUSH_EVERY = 32  # batches; waiting for the disk after each one halves the speed


@dataclass(frozen=True)
class FeatureCache:
    """Features of ``variants`` augmented versions of every picture, memory-mapped.

    Attributes:
        patches: float16 [pictures, variants, P, Dv].
        logits: float16 [pictures, variants, C].
    """

    patches: np.ndarray
    logits: np.ndarray

    def read(self, pictures: np.ndarray, variants: np.ndarray) -> tuple[Tensor, Tensor]:
        """Patches [n, P, Dv] in float16 and logits [n, C] in float32."""
        patches = torch.from_numpy(self.patches[pictures, variants])
        return patches, torch.from_numpy(self.logits[pictures, variants]).float()

    def statistics(self, rng: np.random.Generator, samples: int = 512) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every channel, two of [Dv], over a sample of pictures."""
        rows = np.sort(rng.choice(len(self.patches), min(samples, len(self.patches)), replace=False))
        sample = torch.from_numpy(self.patches[rows, 0]).float().flatten(0, 1)
        return sample.mean(0), sample.std(0).clamp_min(1e-3)


@torch.inference_mode()
def cache_features(
    model: FlamingoModel,
    pictures: list[Path],
    variants: int,
    folder: Path,
    *,
    augment: bool = True,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> FeatureCache:
    """Compute, or reuse, the features of a list of pictures.

    The cache is named after the tower's weights, the pictures and the settings, so it is never stale; an interrupted
    run goes on where it stopped.

    Args:
        model: its vision tower is used.
        pictures: files, RGB or RGBA.
        variants: versions of each.
        augment: whether a version is mirrored, turned, moved and put on another background; else it is as it is.
        folder: where caches live.
    """
    recipe = {
        "tower": fingerprint(model.vision_tower),
        "extra": [list(pair) for pair in model.config.vision_extra_layers],
        "dtype": str(model.vision_tower.dtype),
        "pictures": hashlib.sha256("\n".join(f"{p.name} {p.stat().st_size}" for p in pictures).encode()).hexdigest(),
        "variants": variants,
        "augment": augment,
        "seed": seed,
    }
    name = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        return _fill(model, pictures, variants, target, augment, seed, batch_size, progress)


def _fill(
    model: FlamingoModel,
    pictures: list[Path],
    variants: int,
    target: Path,
    augment: bool,
    seed: int,
    batch_size: int,
    progress: Progress | None,
) -> FeatureCache:
    device = next(model.vision_tower.parameters()).device
    size = model.config.vision_config.image_size
    probe = _features(model, torch.zeros(1, 3, size, size, device=device))
    shapes = {key: (len(pictures), variants, *value.shape[1:]) for key, value in probe.items()}
    arrays = {}
    for key, shape in shapes.items():
        file = target / f"{key}.npy"
        mode = "r+" if file.exists() else "w+"
        arrays[key] = np.lib.format.open_memmap(file, mode, np.float16, shape)
    done_file = target / "done"
    done = int(done_file.read_text()) if done_file.exists() else 0
    for start in range(done, len(pictures), batch_size):
        rows = range(start, min(start + batch_size, len(pictures)))
        for variant in range(variants):
            pixels = [_pixels(pictures[i], size, np.random.default_rng([seed, i, variant]), augment) for i in rows]
            for key, value in _features(model, torch.stack(pixels).to(device)).items():
                arrays[key][start : rows.stop, variant] = value.half().cpu().numpy()
        if rows.stop == len(pictures) or (start // batch_size) % FLUSH_EVERY == FLUSH_EVERY - 1:
            for array in arrays.values():
                array.flush()
            done_file.with_suffix(".part").write_text(str(rows.stop))
            os.replace(done_file.with_suffix(".part"), done_file)
        if progress:
            progress("features", rows.stop, len(pictures))
    return FeatureCache(**{key: np.load(target / f"{key}.npy", mmap_mode="r") for key in shapes})


def _features(model: FlamingoModel, pixels: Tensor) -> dict[str, Tensor]:
    patches, logits = model.image_features(pixels)
    if logits is None:
        raise ConfigError("bridge training makes pseudo-photographs of the tower's classes: it needs class_token: true")
    return {"patches": patches[:, 0], "logits": logits[:, 0]}


def _pixels(file: Path, size: int, rng: np.random.Generator, augment: bool) -> Tensor:
    with Image.open(file) as picture:
        picture.load()
        if augment:
            picture = place(picture if picture.mode in ("RGB", "RGBA") else picture.convert("RGBA"), rng, size)
        else:
            picture = picture.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    # the embedded tower's own normalisation: (x - 127) / 128
    return (torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() - 127) / 128
