"""How the next token is chosen, and how tokens become text."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .options import Options

_COLDEST, _HOTTEST = 1e-5, 1e5  # beyond them scores leave the range of float32, and nothing changes any more
_BYTE = re.compile("<0x[0-9A-F]{2}>")  # what sentencepiece calls the tokens that stand for bytes
_HALF = "\N{REPLACEMENT CHARACTER}"


class Chooser:
    """Chooses next tokens; every answer has its own, with its own random numbers.

    Args:
        options: temperature, top_p, top_k, min_p, repetition_penalty and seed of them.
        device: of the logits.
        never: token ids that are never chosen.
    """

    def __init__(self, options: Options, device: torch.device, never: Sequence[int] = ()) -> None:
        self._never = torch.tensor(list(never), dtype=torch.long, device=device)
        self._processors = LogitsProcessorList()
        self._generator: torch.Generator | None = None
        if options.repetition_penalty != 1:
            self._processors.append(RepetitionPenaltyLogitsProcessor(float(options.repetition_penalty)))
        if options.temperature > 0:
            self._generator = torch.Generator(device)
            if options.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(options.seed)
            temperature = min(max(float(options.temperature), _COLDEST), _HOTTEST)
            self._processors.append(TemperatureLogitsWarper(temperature))
            if options.top_k:
                self._processors.append(TopKLogitsWarper(options.top_k))
            if options.top_p < 1:
                self._processors.append(TopPLogitsWarper(options.top_p))
            if options.min_p:
                self._processors.append(MinPLogitsWarper(options.min_p))

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        """ids [B, T] so far, the prompt's too; logits [B, V] of the next, which stay as they are -> [B]."""
        scores = self._processors(ids, logits.float().index_fill(1, self._never, float("-inf")))
        if self._generator is None:
            return scores.argmax(-1)
        return torch.multinomial(scores.softmax(-1), 1, generator=self._generator)[:, 0]


class Writer:
    """Turns tokens into text as they come: whole characters only, and nothing of a stop string.

    All pieces joined are what the tokenizer makes of all tokens at once, up to the first stop string.

    Args:
        tokenizer: special tokens are left out.
        stop: strings that end the text.

    Attributes:
        text: all pieces so far.
        stopped: a stop string came; nothing is said any more.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, stop
        self.text = ""
        self.stopped = False
        self._ids: list[int] = []
        self._start = self._read = 0  # ids before _read are in the text; decoding starts a little earlier, at _start
        self._in_bytes = False  # one bad byte makes a whole run of byte tokens unreadable, so it is read at its end
        self._held = ""  # text that may be the start of a stop string

    def push(self, token: int) -> str:
        """The text that a token completes, which may be empty."""
        if self.stopped:
            return ""
        self._ids.append(token)
        if _BYTE.fullmatch(self.tokenizer.convert_ids_to_tokens(token) or ""):
            self._in_bytes = True
        elif self._in_bytes and self._decode(len(self._ids) - 1):  # special tokens do not end a run
            self._in_bytes = False
        new = "" if self._in_bytes else self._new()
        if not new or new.endswith(_HALF):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return self._let_out(new)

    def end(self) -> str:
        """What is left: text held back for a stop string that did not come, or half a character."""
        if self.stopped:
            return ""
        new = self._new()
        self._read = len(self._ids)
        piece = self._let_out(new)
        if not self.stopped:
            piece, self.text, self._held = piece + self._held, self.text + self._held, ""
        return piece

    def _new(self) -> str:
        return self._decode(self._start)[len(self._decode(self._start, self._read)) :]

    def _decode(self, start: int, end: int | None = None) -> str:
        return self.tokenizer.decode(self._ids[start:end], skip_special_tokens=True)

    def _let_out(self, piece: str) -> str:
        text = self._held + piece
        ends = [at for word in self.stop if (at := text.find(word)) >= 0]
        if ends:
            text, self._held, self.stopped = text[: min(ends)], "", True
        else:
            keep = max((n for word in self.stop for n in range(1, len(word)) if text.endswith(word[:n])), default=0)
            text, self._held = text[: len(text) - keep], text[len(text) - keep :]
        self.text += text
        return text
