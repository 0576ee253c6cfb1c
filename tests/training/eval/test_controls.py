from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from assistant.model.gated_cross_attention import GatedCrossAttentionBlock
from training.eval import naming
from training.eval.controls import shuffled_labels, swapped, without_pictures, zero_gates
from training.eval.items import Example
from training.eval.metrics import is_right

NOUNS = yaml.safe_load((Path(naming.__file__).parent / "naming_nouns.yaml").read_text("utf-8"))


def example(id, answer, *accept, question="What?", kind="", pictures=1, history=()):
    files = tuple(Path(f"{id}-{i}.png") for i in range(pictures))
    return Example(id, files, question, answer, accept=accept, kind=kind, history=history)


def photographs(split):
    rows = [(stem, row) for activity in NOUNS[split].values() for stem, row in activity.items()]
    return [example(stem, row["noun"], *row["accept"]) for stem, row in rows]


FIVE = [
    example("1", "lion", "lion", "big cat"),
    example("2", "cat", "cat", "kitten"),
    example("3", "llama", "llama", "alpaca"),
    example("4", "alpaca", "alpaca", "llama"),
    example("5", "owl", "owl"),
]


@pytest.mark.parametrize("queries", [FIVE, photographs("dev"), photographs("test")], ids=["five", "dev", "test"])
def test_a_swapped_picture_could_never_be_right(queries):
    partners = swapped(queries)
    assert len(partners) == len(queries)
    for query, partner in zip(queries, partners, strict=True):
        assert partner in queries
        assert not set(partner.accept) & set(query.accept)
        assert not is_right(partner.answer, query.accept), (partner.answer, query.answer)
    assert swapped(queries) == partners


def test_the_partner_is_half_the_list_further_on_or_next_after_that():
    assert [partner.id for partner in swapped(FIVE)] == ["3", "4", "5", "1", "2"]
    alike = [example(str(i), "yes" if i < 3 else "no") for i in range(4)]
    assert [partner.id for partner in swapped(alike)] == ["3", "3", "3", "1"]


def test_swapped_pictures_are_spread_out():
    for split in ("dev", "test"):
        assert len({partner.id for partner in swapped(photographs(split))}) > len(photographs(split)) * 0.7


def test_a_partner_was_asked_the_same_or_is_of_the_same_kind():
    colour, red = {"question": "Colour?", "kind": "colour"}, {"question": "Red?", "kind": "yes/no"}
    queries = [
        example("1", "red", **colour),
        example("2", "yes", **red),
        example("3", "blue", **colour),
        example("4", "no", question="Blue?", kind="yes/no"),
        example("5", "no", **red),
        example("6", "yes", question="Two?", kind="count"),
    ]
    assert [partner.id for partner in swapped(queries)] == ["3", "5", "1", "2", "2", "3"]


def test_no_partner_without_as_many_pictures_and_another_answer():
    queries = [example("1", "a"), example("2", "b", pictures=2), example("3", "a")]
    assert swapped(queries) == [None, None, None]
    assert swapped([]) == []


def test_a_picture_that_is_shared_is_no_other_picture():
    one, other = (Example(id, (Path("same.png"),), "What?", id) for id in "ab")
    assert swapped([one, other]) == [None, None]


def test_without_pictures_no_marker_stands():
    query = example("1", "a", question="Is [img2] as [IMG1]?", pictures=2, history=[("And [img1] it?", "yes")])
    blind = without_pictures(query)
    assert (blind.pictures, blind.question, blind.history) == ((), "Is as ?", (("And it?", "yes"),))
    assert (blind.id, blind.answer) == ("1", "a")


@given(st.lists(st.sampled_from("abc"), max_size=8), st.integers(0, 50))
def test_labels_are_dealt_out_among_the_same_demonstrations(answers, seed):
    demos = [example(str(i), answer) for i, answer in enumerate(answers)]
    shuffled = shuffled_labels(demos, np.random.default_rng(seed))
    assert [demo.id for demo in shuffled] == [demo.id for demo in demos]
    assert Counter(demo.answer for demo in shuffled) == Counter(answers)


def test_who_reads_shuffled_labels_is_at_chance():
    demos = [example("1", "a"), example("2", "b")]
    kept = [shuffled_labels(demos, np.random.default_rng(seed))[0].answer == "a" for seed in range(400)]
    assert np.mean(kept) == pytest.approx(0.5, abs=0.1)


def gates(model):
    blocks = [module for module in model.modules() if isinstance(module, GatedCrossAttentionBlock)]
    return [gate.item() for block in blocks for gate in (block.attention_gate, block.feed_forward_gate)]


def test_closed_gates_are_the_bare_language_model(seeing_model):
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
