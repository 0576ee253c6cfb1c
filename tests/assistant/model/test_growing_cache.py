import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from assistant.model.growing_cache import GrowingLayer, text_cache

FAMILIES = ["llama", "qwen3", "opt", "gpt-neox", "gemma2", "gemma3", "mpt"]
GREEDY = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, "use_cache": True}


def states(batch: int, tokens: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values that differ in width, as those of some models do."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 2, tokens, 3, generator=random), torch.randn(batch, 2, tokens, 5, generator=random)


def act(layer: DynamicLayer, name: str, number: int, seed: int) -> None:
    """One step of a sequence; rows and tokens are taken modulo what is there."""
    rows = len(layer.keys) if layer.is_initialized else 2
    some = [(number + i) % rows for i in range(number)]
    match name:
        case "update":
            returned = layer.update(*states(rows, number, seed))
            assert returned[0] is layer.keys and returned[1] is layer.values
        case "crop":
            layer.crop(-min(number, layer.get_seq_length() - 1) if layer.get_seq_length() else 0)
        case "reorder":
            layer.reorder_cache(torch.tensor([(number + i) % rows for i in range(rows)]))
        case "repeat":
            layer.batch_repeat_interleave(number if rows < 9 else 1)
        case "select":
            layer.batch_select_indices(torch.tensor(some))
        case "reset":
            layer.reset()
        case "trim" if isinstance(layer, GrowingLayer):
            layer.trim()
        case "offload":
            layer.offload()
            layer.prefetch()


steps = st.tuples(
    st.sampled_from(["update", "update", "update", "crop", "reorder", "repeat", "select", "reset", "trim", "offload"]),
    st.integers(1, 4),
)


@given(steps=st.lists(steps, max_size=20), room=st.sampled_from([0, 1, 6, 100]))
@settings(max_examples=200, deadline=None)
def test_it_holds_what_a_layer_that_concatenates_holds(steps, room):
    mine, theirs = GrowingLayer(room), DynamicLayer()
    for seed, (name, number) in enumerate(steps):
        act(mine, name, number, seed)
        act(theirs, name, number, seed)
        assert mine.get_seq_length() == theirs.get_seq_length() and mine.is_initialized == theirs.is_initialized
        assert mine.get_mask_sizes(3) == theirs.get_mask_sizes(3)
        if theirs.is_initialized and theirs.get_seq_length():
            assert torch.equal(mine.keys, theirs.keys) and torch.equal(mine.values, theirs.values)


def places(layer: GrowingLayer) -> tuple[int, int]:
    return layer.keys.data_ptr(), layer.values.data_ptr()


@pytest.mark.parametrize("room", [0, 150])
def test_a_token_is_written_where_there_is_room(room):
    layer = GrowingLayer(room)
    layer.update(*states(2, 5))
    before = places(layer)
    for seed in range(100):
        layer.update(*states(2, 1, seed))
        assert places(layer) == before
    layer.crop(-50)
    layer.update(*states(2, 60))
    assert places(layer) == before


def test_room_is_made_once_and_for_no_more_than_asked():
    layer = GrowingLayer(40)
    layer.update(*states(1, 7))
    assert layer.keys.untyped_storage().nbytes() == 40 * 2 * 3 * 4
    layer.update(*states(1, 33))
    assert layer.keys.untyped_storage().nbytes() == 40 * 2 * 3 * 4
    layer.update(*states(1, 1))
    assert layer.keys.untyped_storage().nbytes() > 41 * 2 * 3 * 4


def test_growing_copies_a_token_a_few_times_at_most():
    layer, moved = GrowingLayer(), 0
    for seed in range(2000):
        before = layer.keys.data_ptr() if layer.is_initialized else None
        layer.update(*states(1, 1, seed))
        if layer.keys.data_ptr() != before:
            moved += layer.get_seq_length()
    assert moved < 3 * 2000


def test_room_is_given_back_where_there_is_much():
    keys, values = states(1, 10)
    for room, trimmed in ((20, 20), (21, 10)):
        layer = GrowingLayer(room)
        layer.update(keys, values)
        layer.trim()
        assert layer.keys.untyped_storage().nbytes() == trimmed * 2 * 3 * 4
        assert torch.equal(layer.keys, keys) and torch.equal(layer.values, values)
    GrowingLayer(20).trim()


def test_a_copy_goes_its_own_way():
    layer = GrowingLayer(20)
    layer.update(*states(1, 3))
    twin = copy.deepcopy(layer)
    twin.update(*states(1, 1, seed=1))
    layer.update(*states(1, 1, seed=2))
    assert torch.equal(twin.keys[:, :, :3], layer.keys[:, :, :3])
    assert torch.equal(twin.keys[:, :, 3:], states(1, 1, seed=1)[0])
    assert torch.equal(layer.keys[:, :, 3:], states(1, 1, seed=2)[0])


def test_layers_with_a_window_stay_as_they_are(text_configs):
    cache = text_cache(text_configs["gemma3"](), 30)
    assert {type(layer) for layer in DynamicCache(config=text_configs["gemma3"]()).layers} == {
        DynamicSlidingWindowLayer
    }
    assert {type(layer) for layer in cache.layers} == {DynamicSlidingWindowLayer}
    kinds = [type(layer) for layer in text_cache(text_configs["gemma2"](), 30).layers]
    assert kinds == [DynamicSlidingWindowLayer, GrowingLayer, DynamicSlidingWindowLayer]
    assert [type(layer) for layer in text_cache(text_configs["llama"](), 30).layers] == [GrowingLayer] * 3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"prompt_lookup_num_tokens": 2}], ids=str)
def test_models_say_the_same_with_it(make, family, options):
    if options.get("prompt_lookup_num_tokens") and family in ("gemma2", "gemma3"):
        pytest.skip("windows that are full cannot be rolled back")
    bare = make(family).bare
    rows = torch.tensor([[0, 0, 1, 7, 8, 9], [1, 20, 30, 20, 30, 20]])
    ids = rows[1:] if "prompt_lookup_num_tokens" in options else rows
    ask = {"input_ids": ids, "attention_mask": (ids != 0).long(), **GREEDY, **options}
    expected = bare.generate(**ask, past_key_values=DynamicCache(config=bare.config))
    for room in (0, 10, 40):
        assert torch.equal(bare.generate(**ask, past_key_values=text_cache(bare.config, room)), expected)


@pytest.mark.parametrize("attend", ["latest", "all_previous"])
def test_flamingo_says_the_same_with_it(make, attend):
    model = make(attend=attend).model
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ask = {"input_ids": torch.tensor([[1, 5, 7, 5, 8, 9]]), "pixel_values": pixels, **GREEDY}
    for options in ({}, {"num_beams": 2}):
        cache = text_cache(model.config.text_config, 8)
        assert torch.equal(model.generate(**ask, **options, past_key_values=cache), model.generate(**ask, **options))
