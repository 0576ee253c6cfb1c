"""Where the items of a task come from.

A source is a function ``source(which, seed, **source_args) -> list[Item]``, deterministic, where ``which`` is ``"dev"``
or ``"test"``. One that takes an argument ``progress`` is given ``progress(what, done, total)`` to call, or ``None``.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from assistant.errors import ConfigError
from training.config import check_keys
from training.eval.items import Item

SOURCES = {
    "naming": "training.eval.naming:naming",
    "jsonl": "training.eval.sources.jsonl:jsonl",
    "hf": "training.eval.sources.hf:hf",
    "binding": "training.eval.sources.binding:binding",
    "rule": "training.eval.sources.rule:rule",
    "format": "training.eval.sources.format:format",
    "categories": "training.eval.sources.categories:categories",
    "easyvqa": "training.eval.sources.easyvqa:easyvqa",
    "interleaved": "training.eval.sources.interleaved:interleaved",
    "interleaved_binding": "training.eval.sources.interleaved:interleaved_binding",
    "followups": "training.eval.sources.followups:followups",
    "scenes": "training.eval.sources.scenes:scenes",
}
"""Name of a source -> "module:function", imported when it is used."""


def load_items(
    source: str, which: str, seed: int, arguments: dict[str, Any], progress: Callable[..., None] | None = None
) -> list[Item]:
    """The items that a source gives.

    Raises:
        ConfigError: there is no such source, it does not take the arguments, or it gave no item.
    """
    check_keys([source], SOURCES, "source")
    module, _, name = SOURCES[source].partition(":")
    function = getattr(importlib.import_module(module), name)
    takes = inspect.signature(function).parameters
    names = list(takes)[2:]
    check_keys(arguments, [name for name in names if name != "progress"], f"source_args of {source}")
    missing = [n for n in names if takes[n].default is inspect.Parameter.empty and n not in arguments]
    if missing:
        raise ConfigError(f"source_args of {source}: {', '.join(missing)} is missing")
    items = function(which, seed, **arguments, **({"progress": progress} if "progress" in takes else {}))
    if not items:
        raise ConfigError(f"source {source} gave no items for {which}")
    return items
