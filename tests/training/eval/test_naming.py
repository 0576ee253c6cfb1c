import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from assistant.model.gated_cross_attention import GatedCrossAttentionBlock
from training.eval import naming
from training.eval.naming import (
    CONTROLS,
    Item,
    is_right,
    load_items,
    name_pictures,
    report,
    swapped,
    wilson_interval,
    zero_gates,
)

NOUNS = yaml.safe_load((Path(naming.__file__).parent / "naming_nouns.yaml").read_text("utf-8"))


def items_of(split):
    rows = [(stem, row) for activity in NOUNS[split].values() for stem, row in activity.items()]
    return [Item(stem, Path(stem), row["noun"], tuple(row["accept"])) for stem, row in rows]


ITEMS = [
    Item("1", Path("1.png"), "lion", ("lion", "big cat")),
    Item("2", Path("2.png"), "cat", ("cat", "kitten")),
    Item("3", Path("3.png"), "llama", ("llama", "alpaca")),
    Item("4", Path("4.png"), "alpaca", ("alpaca", "llama")),
    Item("5", Path("5.png"), "owl", ("owl",)),
]


class Scripted:
    """Stands for an assistant: answers by the picture that it is shown, and by whether its gates are open."""

    def __init__(self, model, answers):
        self.model, self.answers, self.asked = model, answers, []

    def ask(self, question, images, **options):
        self.asked.append((question, images, options))
        [image] = images
        gates = [m.attention_gate.item() for m in self.model.modules() if isinstance(m, GatedCrossAttentionBlock)]
        return SimpleNamespace(text=self.answers[image.name] if any(gates) else "I cannot see.")


@pytest.fixture
def assistant(seeing_model):
    answers = {"1.png": "A lion.", "2.png": "A dog.", "3.png": "An alpaca.", "4.png": "A llama", "5.png": "A hat, owl"}
    return Scripted(seeing_model(), answers)


@pytest.mark.parametrize(
    ("answer", "accept", "right"),
    [
        ("A lion.", ["lion"], True),
        ("LION", ["lion"], True),
        ("a lion", ["Lion"], True),
        ("Two lions are resting.", ["lion"], True),
        ("Foxes", ["fox"], True),
        ("A red panda in a tree", ["red panda"], True),
        ("A red fox and a panda", ["red panda"], False),
        ("A king cat.", ["lion", "cat"], True),
        ("A dandelion.", ["lion"], False),
        ("A caterpillar.", ["cat"], False),
        ("A bobcat.", ["cat"], False),
        ("A tiger, not a lion", ["lion"], False),
        ("A tiger and a lion", ["lion"], False),
        ("A tiger AND a lion", ["lion"], False),
        ("A lion and a tiger", ["lion"], True),
        ("A lion, a tiger", ["lion"], True),
        ("A sandy lion", ["lion"], True),  # "and" is a word of its own
        ("A lion\nand more", ["lion"], True),
        ("and a lion", ["lion"], False),
        (", lion", ["lion"], False),
        ("", ["lion"], False),
        ("A lion", [], False),
        ("A t.rex", ["t.rex"], True),
        ("A torex", ["t.rex"], False),
    ],
)
def test_what_counts_as_right(answer, accept, right):
    assert is_right(answer, accept) is right


@pytest.mark.parametrize("items", [ITEMS, items_of("dev"), items_of("test")], ids=["five", "dev", "test"])
def test_a_swapped_picture_could_never_be_right(items):
    partners = swapped(items)
    assert len(partners) == len(items)
    for item, partner in zip(items, partners, strict=True):
        assert partner in items
        assert not set(partner.accept) & set(item.accept)
        assert not is_right(partner.noun, item.accept), (partner.noun, item.noun)
    assert swapped(items) == partners


def test_swapped_pictures_are_spread_out():
    for split in ("dev", "test"):
        assert len({partner.id for partner in swapped(items_of(split))}) > len(items_of(split)) * 0.7


def gates(model):
    blocks = [module for module in model.modules() if isinstance(module, GatedCrossAttentionBlock)]
    return [gate.item() for block in blocks for gate in (block.attention_gate, block.feed_forward_gate)]


def test_closed_gates_are_the_bare_language_model(seeing_model, sampler):
    model = seeing_model().eval()
    ids = torch.tensor([[model.config.image_token_id, 20, 30, 40]])
    latents = torch.randn(1, 1, 3, 24)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        seen = model(input_ids=ids, image_latents=latents).logits
        with zero_gates(model):
            assert gates(model) == [0.0] * 4
            bare = model(input_ids=ids, image_latents=latents).logits
            assert torch.equal(bare, model(input_ids=ids, image_latents=-latents).logits)
        assert not torch.allclose(seen, bare)
        assert torch.equal(seen, model(input_ids=ids, image_latents=latents).logits)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_gates_open_again_after_an_error(seeing_model):
    model = seeing_model()
    blocks = [module for module in model.modules() if isinstance(module, GatedCrossAttentionBlock)]
    values = [0.1, -0.7, 1 / 3, 2.0]
    for gate, value in zip((g for b in blocks for g in (b.attention_gate, b.feed_forward_gate)), values, strict=True):
        gate.data.fill_(value)
    before = gates(model)
    with pytest.raises(KeyboardInterrupt), zero_gates(model):
        raise KeyboardInterrupt
    assert gates(model) == before


def test_pictures_are_named_greedily_one_by_one(assistant):
    told = []
    results = name_pictures(assistant, ITEMS, progress=lambda *count: told.append(count))
    assert told == [(i, 5) for i in range(1, 6)]
    assert [(result.noun, result.shown, result.right) for result in results] == [
        ("lion", "1", True),
        ("cat", "2", False),
        ("llama", "3", True),
        ("alpaca", "4", True),
        ("owl", "5", False),
    ]
    for question, images, options in assistant.asked:
        assert question == "What is in the picture?"  # no noun, label or hint
        assert len(images) == 1 and options.get("temperature", 0) == 0
    assert [images[0].name for _, images, _ in assistant.asked] == ["1.png", "2.png", "3.png", "4.png", "5.png"]


def test_the_swapped_control_shows_another_picture(assistant):
    results = name_pictures(assistant, ITEMS, "swapped")
    partners = swapped(ITEMS)
    assert [result.id for result in results] == ["1", "2", "3", "4", "5"]
    assert [result.shown for result in results] == [partner.id for partner in partners]
    assert [result.answer for result in results] == [assistant.answers[partner.file.name] for partner in partners]
    assert not any(result.right for result in results)


def test_the_closed_control_shows_the_right_picture_to_closed_gates(assistant):
    before = gates(assistant.model)
    results = name_pictures(assistant, ITEMS, "zero_gates")
    assert {result.answer for result in results} == {"I cannot see."}
    assert [result.shown for result in results] == ["1", "2", "3", "4", "5"]
    assert gates(assistant.model) == before


def test_gates_open_again_when_an_answer_fails(assistant):
    before = gates(assistant.model)
    assistant.answers = None
    assistant.ask = lambda *arguments, **options: (_ for _ in ()).throw(RuntimeError("broken"))
    with pytest.raises(RuntimeError):
        name_pictures(assistant, ITEMS, "zero_gates")
    assert gates(assistant.model) == before


def test_the_report_counts_every_control(assistant):
    summary = report({control: name_pictures(assistant, ITEMS, control) for control in CONTROLS}, "dev", "tiny")
    assert (summary["task"], summary["set"], summary["model"]) == ("naming", "dev", "tiny")
    assert summary["accuracy"] == {
        "right": {"right": 3, "of": 5, "share": 0.6, "interval": [0.231, 0.882]},
        "swapped": {"right": 0, "of": 5, "share": 0.0, "interval": [0.0, 0.434]},
        "zero_gates": {"right": 0, "of": 5, "share": 0.0, "interval": [0.0, 0.434]},
    }
    assert list(summary["answers"]) == ["right", "swapped", "zero_gates"]
    assert json.loads(json.dumps(summary))["answers"]["right"][0] == {
        "id": "1",
        "noun": "lion",
        "shown": "1",
        "answer": "A lion.",
        "right": True,
    }


def test_photographs_come_from_the_built_set(tmp_path, monkeypatch):
    (tmp_path / "dev").mkdir()
    row = {"id": "farm-cow", "file": "pictures/cow.webp", "noun": "cow", "accept": ["cow", "cattle"]}
    (tmp_path / "dev/index.jsonl").write_text(json.dumps(row) + "\n")
    asked = []
    monkeypatch.setattr(naming, "build", lambda *arguments: asked.append(arguments) or tmp_path)
    assert load_items("dev", print) == [Item("farm-cow", tmp_path / "dev/pictures/cow.webp", "cow", ("cow", "cattle"))]
    assert asked == [("naming", print)]


def test_the_interval_is_wilsons():
    # the worked figures of Wilson's method for 20 of 33 and for none of 33
    assert wilson_interval(20, 33) == pytest.approx((0.437, 0.753), abs=1e-3)
    low, high = wilson_interval(0, 33)
    assert low == 0 and high == pytest.approx(0.104, abs=1e-3)
    for right in range(34):
        low, high = wilson_interval(right, 33)
        assert 0 <= low <= right / 33 <= high <= 1
