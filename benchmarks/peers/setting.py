"""What every system is asked and how it is timed. Read in both environments: torch, safetensors and Pillow suffice."""

import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

LATENTS = 64  # of a picture, as in OpenFlamingo, which has no other number
TEXT_TOKENS = 20  # behind each picture
GATE = 0.5  # of all gated blocks, before the tanh: at 0 no picture would count


@dataclass(frozen=True)
class Shape:
    """A LLaMA-type language model with a gated block before every second layer.

    The tower is CLIP's patch embedding without a layer behind it: what comes before the resampler is not measured.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 2048
    vocabulary: int = 32_000
    every: int = 2
    vision_width: int = 768
    image_side: int = 224
    patch: int = 16

    @property
    def image_token(self) -> int:
        return self.vocabulary - 1

    def vision(self) -> dict[str, Any]:
        """Fields of ``CLIPVisionConfig``."""
        return {
            "hidden_size": self.vision_width,
            "intermediate_size": self.vision_width,
            "num_hidden_layers": 0,
            "num_attention_heads": 1,
            "image_size": self.image_side,
            "patch_size": self.patch,
        }

    def text(self) -> dict[str, Any]:
        """Fields of ``LlamaConfig``; no token ends an answer."""
        return {
            "hidden_size": self.width,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
        }


@dataclass(frozen=True)
class Job:
    """What one process does.

    Attributes:
        task: ``"weights"``, ``"check"``, ``"measure"`` or ``"compiled"``; ``"default"``, ``"compiled"`` or
            ``"generate"`` for the embedded default.
        folder: where the weights lie, and what the check compares.
        pictures: how many the prompts show, one prompt each.
        rank_pictures: how many the prompt shows whose ``candidates`` are ranked.
        tokens: of an answer.
        values_per_token: weights that a decode step reads.
    """

    task: str
    folder: str
    shape: Shape = Shape()
    pictures: tuple[int, ...] = (1, 8, 32)
    rank_pictures: int = 8
    candidates: int = 100
    tokens: int = 64
    dtype: str = "float32"
    device: str = "cpu"
    values_per_token: int = 0

    @property
    def weights(self) -> Path:
        """A folder."""
        return Path(self.folder) / "weights"

    @property
    def checked(self) -> Path:
        """What ours says, for OpenFlamingo to compare."""
        return Path(self.folder) / "check.safetensors"

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    def as_float32(self) -> "Job":
        """For the check, which is exact."""
        return replace(self, dtype="float32")


def read_job() -> Job:
    """The job on the command line; threads are as many as the cores that this process may use."""
    tree = json.loads(sys.argv[1])
    torch.set_num_threads(cores())
    return Job(**{**tree, "shape": Shape(**tree.get("shape", {})), "pictures": tuple(tree["pictures"])})


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- what all share


def save_weights(weights: Mapping[str, Tensor], folder: Path) -> None:
    """A file for each, so that no system holds all of them twice while it loads."""
    folder.mkdir(exist_ok=True)
    for name, weight in weights.items():
        save_file({name: weight.contiguous()}, folder / f"{name}.safetensors")


@torch.no_grad()
def load_weights(
    model: nn.Module, folder: Path, rename: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict
) -> list[str]:
    """Fill a model, in place.

    Returns:
        The weights of the model that were not in the folder.

    Raises:
        KeyError: the model has no weight of such a name.
    """
    left = model.state_dict()
    for file in sorted(folder.iterdir()):
        for name, weight in rename(load_file(file)).items():
            left.pop(name).copy_(weight)
    return list(left)


# ---- what is asked


@dataclass(frozen=True)
class Asked:
    """A prompt.

    Attributes:
        ids: an image token before the text of each picture.
        images: in the order of their tokens.
    """

    ids: list[int]
    images: list[Image.Image]


def ask(shape: Shape, pictures: int, *, name: str = "prompt", query: int = 0, lead: int = 0) -> Asked:
    """Pictures with 20 tokens of text each. The last ones are the query's, and the others are demonstrations.

    Args:
        name: prompts of different names or numbers of pictures have no picture in common.
        query: prompts that differ in this alone have all but the last picture and text in common.
        lead: tokens before the first picture.
    """
    ids = _tokens(shape, f"{name} {pictures} lead", lead)
    images = []
    for number in range(pictures):
        seed = f"{name} {pictures} {number}" + (f" query {query}" if number == pictures - 1 else "")
        side = shape.image_side
        images.append(Image.frombytes("RGB", (side, side), random.Random(seed).randbytes(3 * side * side)))
        ids += [shape.image_token, *_tokens(shape, seed, TEXT_TOKENS)]
    return Asked(ids, images)


def candidates(job: Job) -> list[list[int]]:
    """Tokens of the classes that are ranked: one to four each, as names of classes have."""
    return [_tokens(job.shape, f"candidate {number}", 1 + number % 4) for number in range(job.candidates)]


def _tokens(shape: Shape, seed: str, count: int) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(3, shape.image_token) for _ in range(count)]


# ---- how it is timed


class Stopwatch:
    """Notes when tokens come; starts at once. A streamer of transformers, which brings the prompt first."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._started = time.perf_counter()

    def put(self, value: Any) -> None:
        self._times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is left to note."""

    @property
    def first_token(self) -> float:
        """Seconds from the start to the first token."""
        return self._times[1] - self._started

    @property
    def rate(self) -> float:
        """Tokens a second after the first one."""
        return (len(self._times) - 2) / (self._times[-1] - self._times[1])


class Seconds:
    """Times a block: ``with Seconds() as seconds: ...``, then ``seconds.passed``."""

    passed: float

    def __enter__(self) -> "Seconds":
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.passed = time.perf_counter() - self._started


def peak_mb(device: str = "cpu") -> float:
    """Most memory so far, in MB (10^6 bytes): of this process, or on the GPU."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def tell(result: dict[str, Any]) -> None:
    """Hand a result to the process that asked for it: the last line of the output."""
    print(json.dumps(result), flush=True)
