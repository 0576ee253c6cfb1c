"""The assistant as Python sees it: load a model by name, ask about pictures."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event as Flag
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor

from prompts import few_shot, user_message

from .chat import ChatSession, Store
from .conversation import Conversation
from .engine import Engine
from .errors import InputError, ModelError
from .events import Answer, Event, last_answer
from .images import ImageSource, Picture, load_pictures
from .looking import Looked, look
from .model import FlamingoForConditionalGeneration, FlamingoProcessor
from .model.adapter import DESCRIPTION, Adapter, load_assembled
from .model.attention import check_implementation
from .options import Options, make_options
from .parts import PARTS, Progress, ensure_part
from .prompt import Prompt
from .quantization import quantization, quantize_layers, settle

DEFAULT = Path(__file__).parent / "default"
"""The adapter of the embedded default."""

Demo = tuple[ImageSource | Picture | None, str, str]
"""A few-shot example: picture (or ``None``), question, answer."""


class Assistant:
    """A model and its processor, ready to be asked.

    Make one with :meth:`from_pretrained`.

    Attributes:
        engine: what generates.
    """

    def __init__(
        self,
        model: FlamingoForConditionalGeneration,
        processor: FlamingoProcessor,
        name: str = "model",
        load_seconds: float = 0.0,
        *,
        compile: bool = False,
        prepack: bool | None = None,
    ) -> None:
        self.engine = Engine(model, processor, name, load_seconds, compile=compile, prepack=prepack)

    @property
    def model(self) -> FlamingoForConditionalGeneration:
        """The transformers model."""
        return self.engine.model

    @property
    def processor(self) -> FlamingoProcessor:
        """The transformers processor."""
        return self.engine.processor

    @property
    def name(self) -> str:
        """What it was loaded by."""
        return self.engine.name

    @property
    def load_seconds(self) -> float:
        """How long loading took."""
        return self.engine.load_seconds

    @classmethod
    def from_pretrained(
        cls,
        name: str = "default",
        *,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        quantize: str | None = None,
        attn_implementation: str | None = None,
        compile: bool = False,
        prepack: bool | None = None,
        progress: Progress | None = None,
    ) -> "Assistant":
        """Load a model.

        Args:
            name: ``"default"``, a directory (a saved model, an adapter, or a training run) or a hub id.
            device: as torch names it; by default a GPU where there is one.
            dtype: of the weights; by default bfloat16 where the device computes in it, else float32.
            quantize: ``"nf4"`` or ``"int8"`` holds decoder layers and gated blocks in 4 or 8 bits.
            attn_implementation: ``"eager"``, ``"sdpa"`` (which transformers chooses), ``"flash_attention_2"`` or
                ``"flex_attention"``.
            compile, prepack: see :class:`Engine`.
            progress: told of the parts that are fetched.

        Raises:
            FetchError: a part could not be brought here.
            InputError: the device, dtype, quantisation or attention is not known, or they do not fit together.
            MissingExtraError: what quantisation or attention needs is not installed.
            ModelError: there is no such model, it is damaged, or its parts do not fit.
        """
        started = time.monotonic()
        place = _device(device)
        kind = _dtype(dtype, place)
        fewer_bits = None if quantize is None else quantization(quantize, kind)
        if attn_implementation is not None:
            check_implementation(attn_implementation)
        if attn_implementation == "flash_attention_2" and kind == torch.float32:
            raise InputError("flash_attention_2 computes in bfloat16 or float16: choose one as dtype")
        folder = _adapter_folder(name)
        if folder:
            adapter = Adapter.read(folder)
            vision, language = (
                ensure_part(part, progress=progress) if part in PARTS else part
                for part in (adapter.vision.name, adapter.language.name)
            )
            model, processor = load_assembled(folder, vision, language, kind)
            if fewer_bits:
                quantize_layers(model, fewer_bits, place)
        else:
            placed = {"quantization_config": fewer_bits, "device_map": {"": place}} if fewer_bits else {}
            try:
                model, report = AutoModelForImageTextToText.from_pretrained(
                    name, dtype=kind, output_loading_info=True, **placed
                )
                processor = AutoProcessor.from_pretrained(name)
            except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
                first = str(error).strip().splitlines()[0]
                raise ModelError(f"there is no model {name!r} here: {first}; see: assistant models list") from None
            if missing := report["missing_keys"]:
                raise ModelError(f"{name} is damaged: {len(missing)} weights are missing; fetch it again")
            if fewer_bits and model.hf_quantizer.pre_quantized:
                raise InputError(f"{name} was quantised when it was saved; load it without quantize={quantize!r}")
        if attn_implementation is not None:
            model.set_attn_implementation(attn_implementation)
        model = model.eval().to(place)
        if getattr(model, "quantization_method", None) == "bitsandbytes":  # asked for, or saved so
            settle(model)
        loaded = cls(model, processor, name, time.monotonic() - started, compile=compile, prepack=prepack)
        loaded.engine.warm_up(progress)
        return loaded

    def ask(
        self,
        question: str,
        images: Sequence[ImageSource | Picture] = (),
        demos: Sequence[Demo] = (),
        **options: Any,
    ) -> Answer:
        """Ask, and wait for the whole answer; arguments and errors as in :meth:`stream`."""
        return last_answer(self.stream(question, images, demos, **options))

    def stream(
        self,
        question: str,
        images: Sequence[ImageSource | Picture] = (),
        demos: Sequence[Demo] = (),
        *,
        cancel: Flag | None = None,
        **options: Any,
    ) -> Iterator[Event]:
        """Ask, and read the answer as it comes.

        Args:
            question: ``[img1]``, ``[img2]`` in it place the pictures; otherwise they stand before it in order.
            images: paths, URLs, bytes or PIL pictures.
            demos: few-shot examples that stand before the question.
            cancel: once set, ends the answer after the token at hand.
            options: of :class:`Options`: ``max_new_tokens``, ``temperature``, ``seed``, ``stop``, ...

        Yields:
            ``Started``, then ``Token`` pieces, then ``Finished``.

        Raises:
            ImageError: a picture cannot be read.
            PromptError: text and pictures do not fit together, or the prompt is longer than the model's context.
            InputError: an option is not known or out of its range.
        """
        since = time.monotonic()
        chosen = make_options(options)
        return self.engine.stream(self.prompt(question, images, demos), chosen, cancel, since)

    def chat(
        self,
        conversation: Conversation | None = None,
        *,
        store: Store | None = None,
        options: Options | None = None,
    ) -> ChatSession:
        """A chat with this model; arguments as of :class:`ChatSession`."""
        return ChatSession(self.engine, conversation, store=store, options=options)

    def rank(
        self,
        question: str,
        candidates: Sequence[str],
        images: Sequence[ImageSource | Picture] = (),
        demos: Sequence[Demo] = (),
    ) -> list[float]:
        """Log-probability of each candidate as the whole answer; see :meth:`Engine.rank` and :meth:`stream`."""
        return self.engine.rank(self.prompt(question, images, demos), candidates)

    def look(self, prompt: Prompt, answer: str) -> Looked:
        """Where the words of an answer looked, as :func:`~assistant.looking.look` sees it.

        Args:
            prompt: of the question, as :meth:`prompt` makes it.
            answer: its text.

        Raises:
            InputError: there is no picture before the answer, or no word in it.
        """
        said = self.processor.tokenizer.encode(answer, add_special_tokens=False, split_special_tokens=True)
        return look(self.model, self.processor, prompt, said)

    def prompt(self, question: str, images: Sequence[ImageSource | Picture] = (), demos: Sequence[Demo] = ()) -> Prompt:
        """The tokens of a question, with one image token for each picture; errors as in :meth:`stream`."""
        shown_images = iter(load_pictures(image for image, _, _ in demos if image is not None))
        shown = [(None if image is None else next(shown_images), asked, answer) for image, asked, answer in demos]
        return self.engine.prompt(few_shot(shown, user_message(question, load_pictures(images))))

    def encode(
        self, question: str, images: Sequence[ImageSource | Picture] = (), demos: Sequence[Demo] = ()
    ) -> dict[str, torch.Tensor]:
        """What ``assistant.model.generate`` takes for a question: ``input_ids``, ``attention_mask`` and, with pictures,
        ``pixel_values`` [I, 3, h, w] in the order of the prompt. Errors as in :meth:`stream`."""
        prompt = self.prompt(question, images, demos)
        ids = torch.tensor([prompt.ids])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if prompt.pictures:
            shown = [picture.image for picture in prompt.pictures]
            inputs["pixel_values"] = self.processor.image_processor(shown, return_tensors="pt")["pixel_values"]
        return {key: value.to(self.model.device) for key, value in inputs.items()}


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
