"""Read a training configuration: YAML into dataclasses, where a key that is not known is an error."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from assistant.errors import ConfigError

T = TypeVar("T")


def load_config(kind: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """Read a YAML file into the dataclass ``kind``.

    Args:
        kind: a dataclass; its fields may be dataclasses, lists of them, dicts and plain values.
        path: the YAML file.
        overrides: ``"key=value"`` or ``"section.key=value"``; list items by number (``stages.0.steps=10``). Values are
            read as YAML.

    Raises:
        ConfigError: the file cannot be read, a key is not known (the nearest known one is named), a value has another
            type than its field, or the dataclass refuses it with a ``ValueError``.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no valid YAML ({' '.join(str(error).split())})") from None
    for override in overrides:
        _override(tree, override)
    return from_tree(kind, tree, where=str(path))


def _override(tree: Any, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override}: write it as key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: no valid YAML ({' '.join(str(error).split())})") from None
    *parents, last = key.split(".")
    node = tree
    try:
        for name in parents:
            node = node[int(name)] if isinstance(node, list) else node.setdefault(name, {})
        node[int(last) if isinstance(node, list) else last] = value
    except (ValueError, IndexError, TypeError, AttributeError):
        raise ConfigError(f"--set {override}: there is no {key}") from None


def from_tree(kind: Any, tree: Any, where: str) -> Any:
    """Turn what YAML gave into ``kind``, checking names and types; ``where`` names the place in errors."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if tree is None and type(None) in arguments:
            return None
        return from_tree(next(a for a in arguments if a is not type(None)), tree, where)
    if origin is typing.Literal:
        if tree not in arguments:
            raise ConfigError(f"{where}: must be one of {', '.join(map(str, arguments))}, got {tree!r}")
        return tree
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, tree, where)
    if origin in (list, tuple):
        if not isinstance(tree, list):
            raise ConfigError(f"{where}: must be a list, got {tree!r}")
        return [from_tree(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(tree)]
    if origin is dict:
        if not isinstance(tree, dict):
            raise ConfigError(f"{where}: must be a mapping, got {tree!r}")
        return {from_tree(arguments[0], k, where): from_tree(arguments[1], v, f"{where}.{k}") for k, v in tree.items()}
    if kind is float and isinstance(tree, (int, str)) and not isinstance(tree, bool):
        try:
            return float(tree)  # YAML reads 1e-3 as a string
        except ValueError:
            pass
    if kind is not Any and (not isinstance(tree, kind) or (isinstance(tree, bool) and kind is not bool)):
        raise ConfigError(f"{where}: must be {kind.__name__}, got {tree!r}")
    return tree


def _dataclass(kind: Any, tree: Any, where: str) -> Any:
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: must be a mapping, got {tree!r}")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    check_keys(tree, fields, where)
    missing = [
        n
        for n, f in fields.items()
        if n not in tree and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} is missing")
    values = {key: from_tree(hints[key], value, f"{where}: {key}") for key, value in tree.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def check_keys(given: Iterable[Any], known: Iterable[str], where: str) -> None:
    """Hold keys against those that are known.

    Raises:
        ConfigError: one is not known; the nearest known one is named.
    """
    known = list(known)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"{where}: {key} is not known; {hint}")
