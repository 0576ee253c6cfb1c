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

from assistant.model import FlamingoModel
from assistant.model.adapter import fingerprint
from training.data.augment import place

Progress = Callable[[str, int, int], None]


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
        """Patches [n, 1, P, Dv] and logits [n, 1, C] in float32."""
        patches = torch.from_numpy(self.patches[pictures, variants]).float()
        return patches.unsqueeze(1), torch.from_numpy(self.logits[pictures, variants]).float().unsqueeze(1)

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
        variants: augmented versions of each.
        folder: where caches live.
    """
    recipe = {
        "tower": fingerprint(model.vision_tower),
        "dtype": str(model.vision_tower.dtype),
        "pictures": hashlib.sha256("\n".join(f"{p.name} {p.stat().st_size}" for p in pictures).encode()).hexdigest(),
        "variants": variants,
        "seed": seed,
    }
    name = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        return _fill(model, pictures, variants, target, seed, batch_size, progress)


def _fill(
    model: FlamingoModel,
    pictures: list[Path],
    variants: int,
    target: Path,
    seed: int,
    batch_size: int,
    progress: Progress | None,
) -> FeatureCache:
    device, dtype = next(model.vision_tower.parameters()).device, model.vision_tower.dtype
    size = model.config.vision_config.image_size
    probe = model.vision_tower(torch.zeros(1, 3, size, size, device=device, dtype=dtype))
    shapes = {
        "patches": (len(pictures), variants, *probe.last_hidden_state.shape[1:]),
        "logits": (len(pictures), variants, probe.logits.shape[-1]),
    }
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
            pixels = torch.stack([_pixels(pictures[i], np.random.default_rng([seed, i, variant]), size) for i in rows])
            output = model.vision_tower(pixels.to(device, dtype))
            arrays["patches"][start : rows.stop, variant] = output.last_hidden_state.half().cpu().numpy()
            arrays["logits"][start : rows.stop, variant] = output.logits.half().cpu().numpy()
        for array in arrays.values():
            array.flush()
        done_file.with_suffix(".part").write_text(str(rows.stop))
        os.replace(done_file.with_suffix(".part"), done_file)
        if progress:
            progress("features", rows.stop, len(pictures))
    return FeatureCache(**{key: np.load(target / f"{key}.npy", mmap_mode="r") for key in shapes})


def _pixels(file: Path, rng: np.random.Generator, size: int) -> Tensor:
    with Image.open(file) as picture:
        picture.load()
        picture = place(picture if picture.mode in ("RGB", "RGBA") else picture.convert("RGBA"), rng, size)
    # the embedded tower's own normalisation: (x - 127) / 128
    return (torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() - 127) / 128
