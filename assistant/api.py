"""The assistant as Python sees it: load a model by name, ask about pictures."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor, TextIteratorStreamer, set_seed

from prompts import few_shot, pictures, to_chat, user_message

from .errors import InputError, ModelError, PromptError
from .images import ImageSource, Picture, load_pictures
from .model import FlamingoForConditionalGeneration, FlamingoProcessor
from .model.adapter import DESCRIPTION, Adapter, load_assembled
from .parts import PARTS, Progress, ensure_part

DEFAULT = Path(__file__).parent / "default"
"""The adapter of the embedded default."""

Demo = tuple[ImageSource | Picture | None, str, str]
"""A few-shot example: picture (or ``None``), question, answer."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer; ``cached_tokens`` of the prompt were computed before."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True)
class Answer:
    """A finished answer.

    Attributes:
        text: what was said.
        usage: tokens.
        seconds: ``load`` (of the model, once), ``first_token`` and ``total`` (both from the question on).
        model: the name it was loaded by.
        finish_reason: ``"stop"``, or ``"length"`` where ``max_new_tokens`` ended it.
    """

    text: str
    usage: Usage
    seconds: dict[str, float]
    model: str
    finish_reason: str


@dataclass(frozen=True)
class Started:
    """The prompt is read and generation begins."""

    prompt_tokens: int


@dataclass(frozen=True)
class Token:
    """A piece of the answer, whole characters only."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The last event of a stream."""

    answer: Answer


Event = Started | Token | Finished


class Assistant:
    """A model and its processor, ready to be asked.

    Make one with :meth:`from_pretrained`.

    Attributes:
        model: the transformers model.
        processor: the transformers processor.
        name: what it was loaded by.
        load_seconds: how long that took.
    """

    def __init__(
        self,
        model: FlamingoForConditionalGeneration,
        processor: FlamingoProcessor,
        name: str = "model",
        load_seconds: float = 0.0,
    ) -> None:
        self.model, self.processor, self.name, self.load_seconds = model, processor, name, load_seconds

    @classmethod
    def from_pretrained(
        cls,
        name: str = "default",
        *,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        progress: Progress | None = None,
    ) -> "Assistant":
        """Load a model.

        Args:
            name: ``"default"``, a directory (a saved model, an adapter, or a training run) or a hub id.
            device: as torch names it; by default a GPU where there is one.
            dtype: of the weights; by default bfloat16 where the device computes in it, else float32.
            progress: told of the parts that are fetched.

        Raises:
            FetchError: a part could not be brought here.
            InputError: the device or dtype is not known.
            ModelError: there is no such model, it is damaged, or its parts do not fit.
        """
        started = time.monotonic()
        place = _device(device)
        kind = _dtype(dtype, place)
        folder = _adapter_folder(name)
        if folder:
            adapter = Adapter.read(folder)
            vision, language = (
                ensure_part(part, progress=progress) if part in PARTS else part
                for part in (adapter.vision.name, adapter.language.name)
            )
            model, processor = load_assembled(folder, vision, language, kind)
        else:
            try:
                model, report = AutoModelForImageTextToText.from_pretrained(name, dtype=kind, output_loading_info=True)
                processor = AutoProcessor.from_pretrained(name)
            except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                first = str(error).strip().splitlines()[0]
                raise ModelError(f"there is no model {name!r} here: {first}; see: assistant models list") from None
            if missing := report["missing_keys"]:
                raise ModelError(f"{name} is damaged: {len(missing)} weights are missing; fetch it again")
        model = model.eval().to(place)
        return cls(model, processor, name, time.monotonic() - started)

    def ask(
        self,
        question: str,
        images: Sequence[ImageSource | Picture] = (),
        demos: Sequence[Demo] = (),
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Answer:
        """Ask, and wait for the whole answer; arguments and errors as in :meth:`stream`."""
        for event in self.stream(
            question, images, demos, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
        ):
            if isinstance(event, Finished):
                return event.answer
        raise AssertionError("a stream ends with Finished")

    def stream(
        self,
        question: str,
        images: Sequence[ImageSource | Picture] = (),
        demos: Sequence[Demo] = (),
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Iterator[Event]:
        """Ask, and read the answer as it comes.

        Args:
            question: ``[img1]``, ``[img2]`` in it place the pictures; otherwise they stand before it in order.
            images: paths, URLs, bytes or PIL pictures.
            demos: few-shot examples that stand before the question.
            max_new_tokens: most tokens of the answer.
            temperature: 0 is greedy.
            seed: of sampling.

        Yields:
            ``Started``, then ``Token`` pieces, then ``Finished``.

        Raises:
            ImageError: a picture cannot be read.
            PromptError: text and pictures do not fit together, or the prompt is longer than the model's context.
            InputError: a number is out of its range.
        """
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        if not 0 <= temperature < float("inf"):
            raise InputError(f"temperature must be 0 (greedy) or more, got {temperature}")
        if seed is not None and not 0 <= seed < 2**32:
            raise InputError(f"seed must be from 0 to {2**32 - 1}, got {seed}")
        started = time.monotonic()
        inputs = self.encode(question, images, demos)
        if limit := self._context():
            max_new_tokens = min(max_new_tokens, limit - inputs["input_ids"].shape[1])
        return self._stream(inputs, max_new_tokens, temperature, seed, started)

    def encode(
        self, question: str, images: Sequence[ImageSource | Picture] = (), demos: Sequence[Demo] = ()
    ) -> dict[str, torch.Tensor]:
        """The tensors that the model gets for a question: ``input_ids``, ``attention_mask`` and, with pictures,
        ``pixel_values`` [I, 3, h, w] in the order of the prompt. Errors as in :meth:`stream`."""
        shown_images = iter(load_pictures(image for image, _, _ in demos if image is not None))
        shown = [(None if image is None else next(shown_images), asked, answer) for image, asked, answer in demos]
        messages = few_shot(shown, user_message(question, load_pictures(images)))
        chat = to_chat(messages)
        seen = iter(pictures(messages))
        for message in chat:
            for part in message["content"]:
                if part["type"] == "image":
                    part["image"] = next(seen).image
        inputs = self.processor.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        limit = self._context()
        length = inputs["input_ids"].shape[1]
        if limit and length >= limit:
            raise PromptError(
                f"the prompt has {length} tokens and the model reads {limit}; leave out examples or shorten it"
            )
        return {key: value.to(self.model.device) for key, value in inputs.items()}

    def _context(self) -> int | None:
        """Most tokens that the language model reads and writes, if it has such a limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def _stream(
        self, inputs: dict[str, torch.Tensor], max_new_tokens: int, temperature: float, seed: int | None, started: float
    ) -> Iterator[Event]:
        prompt_tokens = inputs["input_ids"].shape[1]
        yield Started(prompt_tokens)
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        generation = _Generation(self.model, inputs, streamer, max_new_tokens, temperature, seed)
        generation.start()
        pieces: list[str] = []
        first_token = None
        for piece in streamer:
            if first_token is None:
                first_token = time.monotonic() - started
            if piece:
                pieces.append(piece)
                yield Token(piece)
        completion = generation.result()[0, prompt_tokens:]
        total = time.monotonic() - started
        ended = completion[-1].item() in _ids(self.model.generation_config.eos_token_id)
        yield Finished(
            Answer(
                "".join(pieces).strip(),
                Usage(prompt_tokens, len(completion)),
                {"load": self.load_seconds, "first_token": first_token or total, "total": total},
                self.name,
                "stop" if ended else "length",
            )
        )


class _Generation(Thread):
    """``generate`` in a thread; its error is raised where the result is asked for."""

    def __init__(
        self,
        model: FlamingoForConditionalGeneration,
        inputs: dict[str, torch.Tensor],
        streamer: TextIteratorStreamer,
        max_new_tokens: int,
        temperature: float,
        seed: int | None,
    ) -> None:
        super().__init__(daemon=True)
        self.model, self.inputs, self.streamer, self.seed = model, inputs, streamer, seed
        self.options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": temperature > 0}
        if temperature > 0:
            self.options["temperature"] = temperature
        self.error: BaseException | None = None
        self.output: torch.Tensor | None = None

    def run(self) -> None:
        try:
            if self.seed is not None:
                set_seed(self.seed)
            self.output = self.model.generate(**self.inputs, **self.options, streamer=self.streamer)
        except BaseException as error:  # handed to the reader of the stream
            self.error = error
            self.streamer.end()

    def result(self) -> torch.Tensor:
        self.join()
        if self.error is not None:
            raise self.error
        assert self.output is not None
        return self.output


def _ids(value: int | list[int] | None) -> list[int]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _adapter_folder(name: str) -> Path | None:
    """Where the adapter of a name lies, if it names one: the default, an adapter's folder, or a training run."""
    if name == "default":
        return DEFAULT
    return next((folder for folder in (Path(name), Path(name) / "adapter") if (folder / DESCRIPTION).is_file()), None)


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def _dtype(name: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    if isinstance(name, torch.dtype):
        return name
    if name is None:
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise InputError(f"dtype {name!r} is not known; known are {', '.join(known)}")
    return known[name]
