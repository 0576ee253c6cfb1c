"""The one way to generate: a prompt goes in, events come out."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from threading import Event as Flag
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor
from transformers import StoppingCriteriaList
from transformers.cache_utils import Cache

from prompts import Message, pictures, to_chat

from .compiled_step import CompiledStep
from .decoding import Chooser, Writer
from .errors import InputError, ModelError, OutOfMemoryError, PromptError
from .events import Answer, Event, Finished, Started, Token, Usage, last_answer
from .images import Picture
from .making import Clock, Row, ending
from .model import FlamingoForConditionalGeneration, FlamingoProcessor
from .model.growing_cache import text_cache
from .model.media import MediaLayer
from .model.processing import whole_texts
from .options import Options
from .parts import Progress
from .prefixes import Key, PrefixStore, Taken
from .prepacking import prepack as use_onednn
from .prompt import Prompt
from .quantization import held_bytes
from .ranking import PACKED, score_after
from .vision_cache import VisionCache


class Engine:
    """Generates answers of one model; any number of threads may ask at once.

    Args:
        model: in evaluation mode, on its device.
        processor: of the model.
        name: that answers carry.
        load_seconds: that answers carry.
        compile: the decode step, at its first use, which takes about a minute and makes every token after it faster.
        prepack: lay weights out as the CPU reads them fastest, in a copy, see :func:`~assistant.prepacking.prepack`; by
            default up to 2 GiB of them, unless a compiled program has its own copy, which it has in bfloat16.
        prefix_bytes: that prefixes of earlier prompts may hold; 0 keeps none.
        vision_bytes: that latents of earlier pictures may hold; 0 keeps none.
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
        prefix_bytes: int = 512 * 2**20,
        vision_bytes: int = 64 * 2**20,
    ) -> None:
        self.model, self.processor, self.name, self.load_seconds = model, processor, name, load_seconds
        self.prefixes = PrefixStore(
            prefix_bytes, model.config.resampler_latents, model.config.skip_blocks_without_media
        )
        self.vision = VisionCache(model, processor, vision_bytes)
        self._compiled = CompiledStep(model) if compile else None
        use_onednn(model, False if prepack is None and compile and model.dtype != torch.float32 else prepack)

    @property
    def context(self) -> int | None:
        """Most tokens that the language model reads and writes, if it has such a limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        """A conversation that waits for an answer; its pictures are :class:`Picture`."""
        return Prompt(tuple(self.tokens(messages)), tuple(pictures(messages)))

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation that waits for an answer, whatever its pictures are.

        As the processor makes them, which refuses to leave the pictures for later: its template on its tokenizer.

        Raises:
            PromptError: the model's template does not take such a conversation.
        """
        try:
            return self.processor.tokenizer.apply_chat_template(
                whole_texts(to_chat(messages)),
                chat_template=self.processor.chat_template,
                add_generation_prompt=True,
                return_dict=False,
                sanitize_control_tokens=True,
            )
        except TemplateError as error:  # some know no system message
            raise PromptError(f"the chat template of {self.name} does not take this conversation: {error}") from None

    def count(self, messages: Sequence[Message]) -> int:
        """How many tokens a conversation has that waits for an answer."""
        return len(self.tokens(messages))

    def reply(
        self,
        messages: Sequence[Message],
        options: Options | None = None,
        cancel: Flag | None = None,
        since: float | None = None,
    ) -> Iterator[Event]:
        """Answer a conversation whose pictures are :class:`Picture`; the rest as in :meth:`stream`."""
        return self.stream(self.prompt(messages), options, cancel, since)

    def stream(
        self,
        prompt: Prompt,
        options: Options | None = None,
        cancel: Flag | None = None,
        since: float | None = None,
    ) -> Iterator[Event]:
        """Answer a prompt, and tell of it as it goes.

        Nothing is computed while nobody asks for the next event. What was computed is kept for prompts that start
        alike, also where the consumer walks away.

        Args:
            options: greedy, 64 tokens at most, unless they say otherwise.
            cancel: once set, ends the answer after the token at hand.
            since: when the question was asked, by ``time.monotonic``; by default now.

        Yields:
            ``Started``, then ``Token`` pieces, then ``Finished``.

        Raises:
            PromptError: the prompt is empty, or as long as the model's context.
        """
        options = self._fitting(prompt, options or Options())
        clock = Clock(options.time_limit, time.monotonic() if since is None else since)
        make = self._beams if options.beams > 1 else self._stream
        return make(prompt, options, cancel, clock)

    def answer(self, prompt: Prompt, options: Options | None = None) -> Answer:
        """The whole answer at once; errors as in :meth:`stream`."""
        return last_answer(self.stream(prompt, options))

    def warm_up(self, progress: Progress | None = None) -> None:
        """Compile what is to be compiled, now instead of in the first answer.

        Args:
            progress: told when it begins and when it is done.

        Raises:
            ModelError: it cannot be compiled, which on a CPU needs a C++ compiler.
        """
        if self._compiled is None:
            return
        from torch._dynamo.exc import TorchDynamoException  # slow to import

        tell = progress or (lambda *_: None)
        tell("decode step", "compile", 0, 1)
        ids = torch.tensor([[self.model.config.image_token_id, 0]], device=self.model.device)
        cache = text_cache(self.model.config.text_config, ids.shape[1])
        side = getattr(self.model.config.vision_config, "image_size", 224)
        self._forward(ids, cache, self.vision.latents([Picture(Image.new("RGB", (side, side)), "blank")]))
        try:
            with self._steps(cache, ids.shape[1] + 1) as step:
                step(ids[:, -1:])
        except TorchDynamoException as error:
            why = str(error).strip().splitlines()[0]
            raise ModelError(f"this model cannot be compiled here: {why}; load it without compile") from error
        tell("decode step", "ready", 1, 1)

    def forget(self) -> None:
        """Drop what was kept of earlier prompts and pictures."""
        self.prefixes.clear()
        self.vision.clear()

    def _fitting(self, prompt: Prompt, options: Options) -> Options:
        """Options that end the answer with the model's context; errors as in :meth:`stream`."""
        if not prompt.ids:
            raise PromptError("the prompt is empty: write a question or give a picture")
        if self.context is None:
            return options
        if len(prompt.ids) >= self.context:
            raise PromptError(
                f"the prompt has {len(prompt.ids)} tokens and the model reads {self.context}; "
                "leave out examples or shorten it"
            )
        return replace(options, max_new_tokens=min(options.max_new_tokens, self.context - len(prompt.ids)))

    def _stream(self, prompt: Prompt, options: Options, cancel: Flag | None, clock: Clock) -> Iterator[Event]:
        room = len(prompt.ids) + options.max_new_tokens
        writer = Writer(self.processor.tokenizer, options.stop)
        said: list[int] = []
        reason = ""
        with self._memory(room):
            start = self._start(prompt, room)
            tokens = self._tokens(prompt, start, options)
            try:
                yield Started(len(prompt.ids), start.tokens)
                while not reason:
                    said.append(token := next(tokens))
                    clock.tick()
                    if token not in self._ends and (piece := writer.push(token)):
                        yield Token(piece)
                    full = len(said) == options.max_new_tokens
                    reason = ending(token in self._ends or writer.stopped, cancel, clock, full)
            finally:
                tokens.close()
                self._keep(prompt, said, start)
        if piece := writer.end():
            yield Token(piece)
        yield self._finished(prompt, said, start.tokens, writer, clock, reason)

    def _beams(self, prompt: Prompt, options: Options, cancel: Flag | None, clock: Clock) -> Iterator[Event]:
        """Beam search of transformers, which knows the answer only at its end."""
        yield Started(len(prompt.ids))
        ids = torch.tensor([prompt.ids], device=self.model.device)

        def over(so_far: Tensor, scores: Any, **_: Any) -> Tensor:
            clock.tick()
            end = bool(ending(False, cancel, clock, False))
            return torch.full((len(so_far),), end, dtype=torch.bool, device=so_far.device)

        with self._memory(options.beams * (len(prompt.ids) + options.max_new_tokens)):
            seen = self.vision.latents(prompt.pictures) if prompt.pictures else None
            output = self.model.generate(
                input_ids=ids,
                image_latents=None if seen is None else self.model.model.hand_out(seen, ids),
                num_beams=options.beams,
                max_new_tokens=options.max_new_tokens,
                repetition_penalty=float(options.repetition_penalty),
                do_sample=False,
                stopping_criteria=StoppingCriteriaList([over]),
            )
        said = output[0, len(prompt.ids) :].tolist()
        writer = Writer(self.processor.tokenizer, options.stop)
        ended = bool(said) and said[-1] in self._ends
        text = "".join(map(writer.push, said[: len(said) - ended])) + writer.end()
        if text:
            yield Token(text)
        reason = ending(ended or writer.stopped, cancel, clock, True)
        yield self._finished(prompt, said, 0, writer, clock, reason)

    def answer_all(
        self, prompts: Sequence[Prompt], options: Options | None = None, latents: Tensor | None = None
    ) -> list[Answer]:
        """Answers to several prompts at once, each the one that it would get alone; errors as in :meth:`stream`.

        Prompts are padded on the left, and rows that have ended leave the batch when they are half of it.

        Args:
            latents: [I, R, W] of all pictures in order, where they are known; the prompts then need no pictures.

        Raises:
            InputError: beams are asked for, which search one prompt at a time.
        """
        options = options or Options()
        if options.beams > 1:
            raise InputError("beams search one prompt at a time: ask for it alone, or without beams")
        rows = [self._row(prompt, self._fitting(prompt, options)) for prompt in prompts]
        if not rows:
            return []
        clock = Clock(options.time_limit, time.monotonic())
        room = max(len(prompt.ids) for prompt in prompts) + options.max_new_tokens
        with self._memory(len(rows) * room):
            self._fill(rows, latents, room, clock)
        return [self._finished(r.prompt, r.said, 0, r.writer, clock, r.reason).answer for r in rows]

    def _fill(self, rows: Sequence[Row], latents: Tensor | None, room: int, clock: Clock) -> None:
        """Give every row its answer."""
        prompts = [row.prompt for row in rows]
        longest = max(len(prompt.ids) for prompt in prompts)
        device, padding = self.model.device, [self._padding]
        ids = torch.tensor([padding * (longest - len(p.ids)) + list(p.ids) for p in prompts], device=device)
        mask = torch.tensor([[0] * (longest - len(p.ids)) + [1] * len(p.ids) for p in prompts], device=device)
        if latents is None and (seen := [picture for prompt in prompts for picture in prompt.pictures]):
            latents = self.vision.latents(seen)
        cache = text_cache(self.model.config.text_config, room)
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        logits = self._forward(ids, cache, latents, attention_mask=mask, position_ids=positions)
        batch = list(rows)
        while True:
            tokens = torch.cat([row.choose(logits[i : i + 1]) for i, row in enumerate(batch)])
            clock.tick()
            for row, token in zip(batch, tokens.tolist(), strict=True):
                row.push(token, self._ends, clock)
            left = [i for i, row in enumerate(batch) if not row.reason]
            if not left:
                return
            if 2 * len(left) <= len(batch):
                chosen = torch.tensor(left, device=device)
                cache.batch_select_indices(chosen)
                batch, tokens, mask = [batch[i] for i in left], tokens[chosen], mask[chosen]
            mask = torch.cat((mask, mask.new_ones(len(batch), 1)), dim=1)
            positions = mask.sum(1, keepdim=True) - 1
            logits = self._forward(tokens[:, None], cache, attention_mask=mask, position_ids=positions)

    def rank(self, prompt: Prompt, candidates: Sequence[str]) -> list[float]:
        """How likely each candidate is as the whole answer: log-probabilities, natural logarithm.

        All candidates are read in one pass behind the prompt, which is read once; none of them sees another.

        Raises:
            InputError: there is no candidate, or one is empty.
            PromptError: as in :meth:`stream`.
        """
        if not candidates or not all(candidates):
            raise InputError("ranking needs candidates, and every one needs a word")
        self._fitting(prompt, Options())
        answers = [
            self.processor.tokenizer.encode(one, add_special_tokens=False) + self._ends[:1] for one in candidates
        ]
        with self._memory(len(prompt.ids) + PACKED):
            return self._scores(prompt, answers)

    def _scores(self, prompt: Prompt, answers: Sequence[Sequence[int]]) -> list[float]:
        """Log-probability of each answer."""
        start = self._start(prompt, len(prompt.ids) + PACKED)
        try:
            first = self._read(prompt, start).float().log_softmax(-1)[0]
            followed = score_after(self.model, start.cache, len(prompt.pictures), answers)
        finally:
            self._keep(prompt, (), start)
        return [float(first[answer[0]]) + score for answer, score in zip(answers, followed, strict=True)]

    def _tokens(self, prompt: Prompt, start: Taken, options: Options) -> Generator[int, None, None]:
        """Tokens without end; the last one of them is not in the cache yet."""
        chooser, ids = self._chooser(options), torch.tensor([prompt.ids], device=self.model.device)
        logits = self._read(prompt, start)
        with self._steps(start.cache, len(prompt.ids) + options.max_new_tokens) as step:
            while True:
                token = chooser(ids, logits)
                yield int(token)
                if options.repetition_penalty != 1:
                    ids = torch.cat((ids, token[:, None]), dim=1)
                logits = step(token[:, None])

    def _read(self, prompt: Prompt, start: Taken) -> Tensor:
        """Read what a cache lacks of a prompt -> logits of what comes next, [1, V]."""
        ids = torch.tensor([prompt.ids[start.tokens :]], device=self.model.device)
        new = prompt.pictures[start.pictures :]
        return self._forward(ids, start.cache, self.vision.latents(new) if new else None)

    def _steps(self, cache: Cache, room: int) -> "AbstractContextManager[Callable[[Tensor], Tensor]]":
        """What reads a token [1, 1] and gives the logits [1, V] of the next."""
        if self._compiled is not None and self._compiled.can_step(cache):
            return self._compiled.over(cache, room)
        return nullcontext(lambda token: self._forward(token, cache))

    @torch.inference_mode()
    def _forward(self, ids: Tensor, cache: Cache, latents: Tensor | None = None, **kwargs: Any) -> Tensor:
        """ids [B, T] and latents of their pictures, [I, R, W] -> logits of what comes next, [B, V]."""
        given = None if latents is None else self.model.model.hand_out(latents, ids)
        output = self.model(
            input_ids=ids, past_key_values=cache, use_cache=True, image_latents=given, logits_to_keep=1, **kwargs
        )
        return output.logits[:, -1]

    def _key(self, prompt: Prompt, said: Sequence[int] = ()) -> Key:
        digests = tuple(picture.digest for picture in prompt.pictures)
        return Key((*prompt.ids, *said), digests, self.model.config.image_token_id)

    def _start(self, prompt: Prompt, room: int) -> Taken:
        """The start of a known prompt, or an empty cache."""
        return self.prefixes.take(self._key(prompt), room) or Taken(text_cache(self.model.config.text_config, room))

    def _keep(self, prompt: Prompt, said: Sequence[int], start: Taken) -> None:
        """Keep what was read, if it was: a consumer may have walked away before, or a step was interrupted half way."""
        read, *others = {layer.get_seq_length() for layer in start.cache.layers if not isinstance(layer, MediaLayer)}
        if read >= len(prompt.ids) and not others:
            self.prefixes.keep(self._key(prompt, said[: read - len(prompt.ids)]), start)
        else:
            self.prefixes.release(start)

    def _finished(
        self, prompt: Prompt, said: Sequence[int], cached: int, writer: Writer, clock: Clock, reason: str
    ) -> Finished:
        usage = Usage(len(prompt.ids), len(said), cached)
        seconds = {"load": self.load_seconds, "first_token": clock.first or clock.now, "total": clock.now}
        return Finished(Answer(writer.text.strip(), usage, seconds, self.name, reason))

    def _row(self, prompt: Prompt, options: Options) -> Row:
        writer = Writer(self.processor.tokenizer, options.stop)
        ids = torch.tensor([prompt.ids], device=self.model.device)
        return Row(prompt, options.max_new_tokens, writer, self._chooser(options), ids)

    def _chooser(self, options: Options) -> Chooser:
        return Chooser(options, self.model.device, [self.model.config.image_token_id])

    @contextmanager
    def _memory(self, tokens: int) -> Iterator[None]:
        """Say what is too large where memory runs out."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            self.forget()
            text = self.model.config.get_text_config()
            width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
            heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
            kept = 2 * tokens * text.num_hidden_layers * heads * width * self.model.dtype.itemsize
            raise OutOfMemoryError(
                f"memory ran out: the weights take {held_bytes(self.model) / 1e6:.0f} MB and {tokens} tokens "
                f"{kept / 1e6:.0f} MB besides what is computed; ask with fewer pictures or examples, or lower "
                "max_new_tokens, or load the model with quantize or in bfloat16"
            ) from None

    @property
    def _padding(self) -> int:
        """Stands where a row has no token; never seen."""
        pad = self.processor.tokenizer.pad_token_id
        return pad if pad is not None else (self._ends or [0])[0]

    @property
    def _ends(self) -> list[int]:
        """Tokens that end an answer."""
        ids = self.model.generation_config.eos_token_id
        return ids if isinstance(ids, list) else [] if ids is None else [ids]


def out_of_memory(error: Exception) -> bool:
    """Whether that is what an error says; torch has no class for it on the CPU."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
