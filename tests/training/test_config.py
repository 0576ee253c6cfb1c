from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

import training
from assistant.errors import ConfigError
from training.bridge.config import BridgeConfig
from training.config import check_keys, load_config

SHIPPED = sorted((Path(training.__file__).parent / "configs").glob("*.yaml"))


@dataclass
class Part:
    size: int
    rate: float = 0.5

    def __post_init__(self):
        if self.size < 0:
            raise ValueError(f"size must be at least 0, got {self.size}")


@dataclass
class Whole:
    name: str
    parts: list[Part] = field(default_factory=list)
    inner: Part | None = None
    shares: dict[Literal["left", "right"], float] = field(default_factory=dict)
    kind: Literal["small", "large"] = "small"
    fast: bool = False
    notes: dict[str, Any] = field(default_factory=dict)
    pair: tuple[int, ...] = ()


@pytest.fixture
def load(tmp_path):
    """Load the text of a configuration file."""

    def loaded(text, *overrides):
        path = tmp_path / "c.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(Whole, path, overrides)

    return loaded


def test_a_tree_becomes_dataclasses(load):
    text = """
    name: n
    parts: [{size: 1}, {size: 2, rate: 3}]
    inner: {size: 4}
    shares: {left: 1}
    kind: large
    fast: true
    notes: {any: [thing]}
    pair: [5, 6]
    """
    whole = load(text)
    assert whole == Whole(
        "n", [Part(1), Part(2, 3.0)], Part(4), {"left": 1.0}, "large", True, {"any": ["thing"]}, [5, 6]
    )
    assert isinstance(whole.parts[1].rate, float) and isinstance(whole.shares["left"], float)


def test_what_is_left_out_has_its_default(load):
    assert load("name: n\ninner: null") == Whole("n")


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001", "'0.001'"])
def test_a_float_may_be_written_in_any_way(load, text):
    assert load(f"name: n\ninner: {{size: 1, rate: {text}}}").inner.rate == 0.001


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: n\nfsat: true", ": fsat is not known; did you mean fast?"),
        ("name: n\nzzzz: 1", ": zzzz is not known; known are name, parts, inner, shares, kind, fast, notes, pair"),
        ("name: n\n3: 1", ": 3 is not known; known are"),
        ("name: n\nparts: [{size: 1}, {sise: 1}]", ": parts[1]: sise is not known; did you mean size?"),
        ("name: n\ninner: {size: 1, rat: 2}", ": inner: rat is not known; did you mean rate?"),
        ("name: n\nshares: {lfet: 1}", ": shares: must be one of left, right, got 'lfet'"),
        ("name: n\nnotes: {1: a}", ": notes: must be str, got 1"),
        ("fast: true", ": name is missing"),
        ("name: n\ninner: {rate: 2}", ": inner: size is missing"),
        ("name: 3", ": name: must be str, got 3"),
        ("name: n\nparts: {size: 1}", ": parts: must be a list, got {'size': 1}"),
        ("name: n\nparts: [3]", ": parts[0]: must be a mapping, got 3"),
        ("name: n\nshares: [1]", ": shares: must be a mapping, got [1]"),
        ("name: n\nshares: {left: x}", ": shares.left: must be float, got 'x'"),
        ("name: n\ninner: {size: 1.5}", ": inner: size: must be int, got 1.5"),
        ("name: n\ninner: {size: true}", ": inner: size: must be int, got True"),
        ("name: n\ninner: {size: 1, rate: true}", ": inner: rate: must be float, got True"),
        ("name: n\nfast: 1", ": fast: must be bool, got 1"),
        ("name: n\nkind: huge", ": kind: must be one of small, large, got 'huge'"),
        ("name: n\ninner: {size: -1}", ": inner: size must be at least 0, got -1"),
        ("[name]", ": must be a mapping, got ['name']"),
        ("name: [", ": no valid YAML"),
        (b"\xff\xfe\x00", ": no valid YAML"),
        ("", ": name is missing"),
    ],
)
def test_what_does_not_fit_is_named(load, tmp_path, text, told):
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert str(caught.value).startswith(str(tmp_path / "c.yaml") + told)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["none.yaml", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path, path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(Whole, tmp_path / path)


def test_overrides_reach_everything(load):
    text = "name: n\nparts: [{size: 1}, {size: 2}]\nshares: {left: 1}"
    whole = load(text, "name=m=m", "parts.1.size=7", "parts.0.rate=1e-4", "inner.size=3", "shares.right=2", "fast=yes")
    assert whole == Whole("m=m", [Part(1, 1e-4), Part(7)], Part(3), {"left": 1.0, "right": 2.0}, fast=True)


def test_an_override_may_hold_a_list(load):
    assert load("name: n", "parts=[{size: 3}]").parts == [Part(3)]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("name", "--set name: write it as key=value"),
        ("parts.5.size=1", "--set parts.5.size=1: there is no parts.5.size"),
        ("parts.first.size=1", "there is no parts.first.size"),
        ("name.size=1", "there is no name.size"),
        ("inner.size.more=1", "there is no inner.size.more"),
        ("name=[", "--set name=[: no valid YAML"),
    ],
)
def test_an_override_that_leads_nowhere_is_named(load, override, told):
    with pytest.raises(ConfigError) as caught:
        load("name: n\nparts: [{size: 1}]\ninner: {size: 2}", override)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_override_of_an_unknown_key_is_an_unknown_key(load):
    with pytest.raises(ConfigError, match="fsat is not known; did you mean fast"):
        load("name: n", "fsat=1")


def test_keys_are_held_against_the_known_ones():
    check_keys(["size"], ["size", "rate"], "here")
    with pytest.raises(ConfigError, match="here: sice is not known; did you mean size"):
        check_keys(["rate", "sice"], ["size", "rate"], "here")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_configuration_loads(path):
    config = load_config(BridgeConfig, path)
    assert config.stages and all(isinstance(stage.learning_rate, float) for stage in config.stages)
    from assistant.model import FlamingoConfig

    check_keys(config.model, FlamingoConfig.__annotations__, "model")
