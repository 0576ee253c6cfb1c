"""Whether an answer is right. Every metric is a pure function of the answer and the example that was asked."""

import json
import re
from collections.abc import Callable, Sequence

from training.eval.items import Example

_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_ARTICLES = {"a", "an", "the"}
_BRITISH = {"gray": "grey", "color": "colour"}


def is_right(answer: str, accept: Sequence[str]) -> bool:
    """Whether an accepted noun stands in the answer before its first comma or "and"."""
    head = re.split(r",|\band\b", answer, maxsplit=1, flags=re.IGNORECASE)[0]
    return any(re.search(rf"\b{re.escape(noun)}(?:s|es)?\b", head, re.IGNORECASE) for noun in accept)


def normalise(text: str) -> str:
    """Lower case, without articles and punctuation, number words as digits, one spelling of grey, single spaces."""
    words = [_BRITISH.get(word, word) for word in re.findall(r"\w+", text.lower())]
    return " ".join(str(_NUMBERS.index(w)) if w in _NUMBERS else w for w in words if w not in _ARTICLES)


def contains(answer: str, asked: Example) -> bool:
    """An accepted noun is the first thing that is named, see :func:`is_right`; articles and full stops aside."""
    nouns = [re.sub(r"^(?:an?|the)\s+|[.!]+$", "", text.strip(), flags=re.IGNORECASE) for text in asked.accepted]
    return is_right(answer, nouns)


def exact(answer: str, asked: Example) -> bool:
    """The answer is an accepted one but for case, punctuation, articles and number words."""
    return normalise(answer) in {normalise(text) for text in asked.accepted}


def one_of(answer: str, asked: Example) -> bool:
    """Of the choices exactly one stands in the answer, as whole words, and it is an accepted one."""
    said = f" {normalise(answer)} "
    choices = {normalise(choice) for choice in (*asked.choices, *asked.accepted)}
    found = {choice for choice in choices if f" {choice} " in said}
    # "not the left" is no vote for "left" over "top left": a choice inside a longer one that was said does not count
    found = {choice for choice in found if not any(choice != o and f" {choice} " in f" {o} " for o in found)}
    return len(found) == 1 and found <= {normalise(text) for text in asked.accepted}


def format(answer: str, asked: Example) -> bool:
    """The answer has the form that ``asked.kind`` names, whatever it says.

    "word": one word, not in upper case; "sentence": three words or more from a capital letter to a full stop; "json":
    an object with the keys of ``asked.answer``; "upper": letters, all upper case.

    Raises:
        ValueError: no such kind.
    """
    text = answer.strip()
    if asked.kind == "word":
        return re.fullmatch(r"[\w'-]+\.?", text) is not None and not _shouted(text)
    if asked.kind == "sentence":
        return re.fullmatch(r"[A-Z]\S*(?:\s+\S+){2,}[.!]", text) is not None and not _shouted(text)
    if asked.kind == "json":
        return _keys(text) is not None and _keys(text) == _keys(asked.answer)
    if asked.kind == "upper":
        return _shouted(text) and _keys(text) is None
    raise ValueError(f"format knows the kinds word, sentence, json and upper, got {asked.kind!r}")


def _shouted(text: str) -> bool:
    return text.upper() == text and any(letter.isalpha() for letter in text)


def _keys(text: str) -> list[str] | None:
    """The keys of a JSON object, or ``None`` where the text is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return sorted(value) if isinstance(value, dict) else None


METRICS: dict[str, Callable[[str, Example], bool]] = {
    "contains": contains,
    "exact": exact,
    "one_of": one_of,
    "format": format,
}
