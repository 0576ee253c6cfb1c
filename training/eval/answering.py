"""Answers to many prompts at once, each the one that ``Assistant.ask`` gives."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from assistant import Assistant, Options, Prompt
from assistant.images import load_pictures
from prompts import Message, assistant_message, pictures, system_message, user_message
from training.eval.items import Example

CHUNK = 16  # pictures that go through the tower at once


def turns(example: Example) -> list[Message]:
    """The user turns of an example with the assistant's answers between them; the last is its question."""
    messages: list[Message] = []
    shown: Sequence[Path] = example.pictures
    for asked, answer in example.history:
        messages += [user_message(asked, shown), assistant_message(answer)]
        shown = ()
    return [*messages, user_message(example.question, shown)]


def prompt(query: Example, demos: Iterable[Example], system: str | None = None) -> list[Message]:
    """Demonstrations, then the question, as :func:`prompts.few_shot` has them; with many pictures and turns as well."""
    messages = [] if system is None else [system_message(system)]
    for demo in demos:
        messages += [*turns(demo), assistant_message(demo.answer)]
    return [*messages, *turns(query)]


class Pictures:
    """What the tower and the resampler make of files, each seen once.

    Files go through the tower in fixed chunks of the sorted list, whatever is asked for first, so that an interrupted
    run that goes on computes the very same numbers.

    Args:
        files: every file that may be asked for.
        progress: called as ``progress(done, total)``.
    """

    def __init__(
        self, assistant: Assistant, files: Iterable[Path], progress: Callable[[int, int], None] | None = None
    ) -> None:
        self.assistant, self.progress = assistant, progress
        self.files = sorted(set(files))
        self._chunk_of = {file: i // CHUNK for i, file in enumerate(self.files)}
        self._latents: dict[Path, Tensor] = {}
        self._features: dict[Path, np.ndarray] = {}

    def latents(self, file: Path) -> Tensor:
        """[R, W]

        Raises:
            ImageError: the file cannot be read.
        """
        self._see(file)
        return self._latents[file]

    def features(self, file: Path) -> np.ndarray:
        """The mean patch of the tower's last layer, [D]; errors as in :meth:`latents`."""
        self._see(file)
        return self._features[file]

    @torch.inference_mode()
    def _see(self, file: Path) -> None:
        if file in self._latents:
            return
        start = self._chunk_of[file] * CHUNK
        files = self.files[start : start + CHUNK]
        images = [picture.image for picture in load_pictures(files)]
        model = self.assistant.model
        pixels = self.assistant.processor.image_processor(images, return_tensors="pt")["pixel_values"]
        patches, logits = model.model.image_features(pixels.to(model.device))
        self._latents.update(zip(files, model.model.resampler(patches, logits), strict=True))
        last = patches[..., : model.config.vision_config.hidden_size]  # earlier layers stand behind it
        means = last.float().mean(dim=(1, 2)).cpu().numpy()  # [I, F, P, D] -> [I, D]
        self._features.update(zip(files, means, strict=True))
        if self.progress:
            self.progress(len(self._latents), len(self.files))


class Similarity:
    """Cosine of the tower's mean patches, standardised over all files: without that, all pictures look alike."""

    def __init__(self, pictures: Pictures) -> None:
        features = np.stack([pictures.features(file) for file in pictures.files])
        standard = (features - features.mean(0)) / (features.std(0) + 1e-6)
        self._vectors = dict(zip(pictures.files, standard, strict=True))
        self._directions: dict[tuple[Path, ...], np.ndarray] = {}

    def __call__(self, one: Example, other: Example) -> float:
        """Of two examples, by the mean over their pictures; 0 where one has none."""
        if not one.pictures or not other.pictures:
            return 0.0
        return float(self._direction(one.pictures) @ self._direction(other.pictures))

    def _direction(self, files: tuple[Path, ...]) -> np.ndarray:
        if files not in self._directions:
            mean = np.mean([self._vectors[file] for file in files], axis=0)
            self._directions[files] = mean / (np.linalg.norm(mean) + 1e-12)
        return self._directions[files]


def answer(
    assistant: Assistant,
    prompts: Sequence[tuple[Sequence[int], Sequence[Message]]],
    seen: Pictures,
    max_new_tokens: int,
) -> list[str]:
    """Greedy answers to prompts, in one batch.

    Args:
        prompts: tokens and messages, whose pictures are files that ``seen`` knows.

    Raises:
        PromptError: a prompt is longer than the model's context.
    """
    files = [file for _, messages in prompts for file in pictures(messages)]
    latents = torch.stack([seen.latents(file) for file in files]) if files else None
    asked = [Prompt(tuple(ids)) for ids, _ in prompts]
    answers = assistant.engine.answer_all(asked, Options(max_new_tokens=max_new_tokens), latents)
    return [one.text for one in answers]
