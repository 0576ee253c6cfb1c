from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from assistant.model.growing_cache import GrowingLayer, text_cache
from assistant.model.media import MediaLayer
from assistant.prefixes import Key, PrefixStore, Taken, copy_prefix

IMAGE, WORD, OTHER = 5, 7, 8
LATENTS = 3  # per picture
PIXELS = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
ATTEND = ["latest", "all_previous"]


def key(ids: list[int], pictures: list[int] | str = "") -> Key:
    return Key(tuple(ids), tuple(bytes([int(picture)]) for picture in pictures), IMAGE)


@pytest.fixture(scope="module")
def models(make):
    """Models by family and fields, each made once."""
    made = {}

    def model(family: str = "llama", **fields):
        name = (family, *sorted(fields.items()))
        if name not in made:
            made[name] = make(family, **fields).model
        return made[name]

    return model


@torch.no_grad()
def run(model, prompt: Key, cache=None, tokens: int = 0, pictures: int = 0) -> torch.Tensor:
    """Logits [T, V] of what a prompt has beyond so many tokens and pictures."""
    pixels = PIXELS[[picture[0] for picture in prompt.pictures[pictures:]]]
    new = torch.tensor([prompt.ids[tokens:]])
    return model(input_ids=new, pixel_values=pixels if len(pixels) else None, past_key_values=cache).logits[0]


def cache_of(model, prompt: Key, room: int = 0) -> DynamicCache:
    cache = text_cache(model.config.text_config, room)
    run(model, prompt, cache)
    return cache


def tensors(cache) -> list[torch.Tensor]:
    return [x for layer in cache.layers for x in vars(layer).values() if isinstance(x, torch.Tensor) and x.numel() > 1]


def same(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@st.composite
def prompts(draw, length: int = 12, most: int = 4) -> Key:
    """Words, with none to four pictures among them."""
    ids = draw(st.lists(st.sampled_from([WORD, OTHER, IMAGE]), min_size=2, max_size=length))
    for place in [place for place, token in enumerate(ids) if token == IMAGE][most:]:
        ids[place] = WORD
    count = ids.count(IMAGE)
    return key(ids, draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))


# Keys


@given(one=prompts(), other=prompts())
@settings(max_examples=300, deadline=None)
def test_what_two_prompts_share_is_the_loop(one, other):
    tokens = pictures = 0
    for mine, theirs in zip(one.ids, other.ids, strict=False):
        if mine != theirs or (mine == IMAGE and one.pictures[pictures] != other.pictures[pictures]):
            break
        tokens, pictures = tokens + 1, pictures + (mine == IMAGE)
    assert one.common(other) == other.common(one) == tokens
    assert one.count_pictures(tokens) == other.count_pictures(tokens) == pictures


@pytest.mark.parametrize(("ids", "pictures"), [([WORD], "1"), ([IMAGE], ""), ([IMAGE, WORD, IMAGE], "123")])
def test_pictures_of_a_key_are_counted(ids, pictures):
    with pytest.raises(ValueError, match=f"{ids.count(IMAGE)} image tokens, and {len(pictures)} pictures"):
        key(ids, pictures)


# Copies


@pytest.mark.parametrize("attend", ATTEND)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_the_rest_after_a_copy_is_the_rest_of_the_whole(models, attend, data):
    model = models(attend=attend)
    prompt, other = data.draw(prompts()), data.draw(prompts())
    at_pictures = [place + d for place, token in enumerate(prompt.ids) if token == IMAGE for d in (0, 1)]
    tokens = data.draw(st.sampled_from([*range(1, len(prompt.ids)), *at_pictures]))
    tokens = min(max(tokens, 1), len(prompt.ids) - 1)
    cache = cache_of(model, prompt, data.draw(st.sampled_from([0, 30])))
    before = [x.clone() for x in tensors(cache)]
    pictures = prompt.count_pictures(tokens)
    follow = Key(prompt.ids[:tokens] + other.ids, prompt.pictures[:pictures] + other.pictures, IMAGE)
    for goes_on in (prompt, follow):
        copied = copy_prefix(cache, tokens, pictures, LATENTS, data.draw(st.sampled_from([0, 40])))
        assert copied.get_seq_length() == tokens
        same(run(model, goes_on, copied, tokens, pictures), run(model, goes_on)[tokens:])
    assert all(torch.equal(x, y) for x, y in zip(tensors(cache), before, strict=True))


@pytest.mark.parametrize("attend", ATTEND)
@pytest.mark.parametrize("family", ["opt", "gpt-neox", "gemma"])
@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 6])
def test_a_copy_goes_on_in_every_family(models, family, attend, tokens):
    model, prompt = models(family, attend=attend), key([WORD, OTHER, IMAGE, WORD, OTHER, IMAGE, WORD], "12")
    pictures = prompt.count_pictures(tokens)
    copied = copy_prefix(cache_of(model, prompt), tokens, pictures, LATENTS, 20)
    same(run(model, prompt, copied, tokens, pictures), run(model, prompt)[tokens:])


def test_a_copy_shares_no_memory_and_keeps_what_it_does_not_know(models):
    model, prompt = models(), key([WORD, IMAGE, WORD, IMAGE, WORD], "12")
    cache = cache_of(model, prompt)
    copied = copy_prefix(cache, 3, 1, LATENTS, 20)
    mine, theirs = ({x.untyped_storage().data_ptr() for x in tensors(one)} for one in (cache, copied))
    assert not mine & theirs
    assert type(copied) is type(cache) and copied.layers is not cache.layers
    assert [type(layer) for layer in copied.layers] == [GrowingLayer] * 3 + [MediaLayer] * 2
    assert copied.layers[0].keys.untyped_storage().nbytes() == 20 * copied.layers[0].keys[:, :, :1].nbytes
    assert copied.layers[3].keys.shape[2] == LATENTS and copied.layers[3].numbers.tolist() == [[1]]
    assert copied.layers[4].numbers is None


def test_a_cache_of_plain_layers_is_copied_into_growing_ones(models):
    model, prompt = models(), key([WORD, IMAGE, WORD, OTHER], "1")
    cache = DynamicCache(config=model.config.text_config)
    run(model, prompt, cache)
    assert type(cache.layers[0]) is DynamicLayer
    copied = copy_prefix(cache, 3, 1, LATENTS, 20)
    assert type(copied.layers[0]) is GrowingLayer
    same(run(model, prompt, copied, 3, 1), run(model, prompt)[3:])


def test_a_copy_of_nothing_is_empty(models):
    model, prompt = models(), key([WORD, IMAGE, WORD], "1")
    copied = copy_prefix(cache_of(model, prompt), 0, 0, LATENTS, 0)
    assert copied.get_seq_length() == 0
    same(run(model, prompt, copied), run(model, prompt))


def test_more_than_there_is_cannot_be_copied(models):
    with pytest.raises(ValueError, match="holds 2 tokens; it cannot be cut to 3"):
        copy_prefix(cache_of(models(), key([WORD, WORD])), 3, 0, LATENTS, 0)


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
@pytest.mark.parametrize("length", [2, 3, 4, 5, 9])
def test_windows_are_copied_whole_and_cut_only_before_they_are_full(models, family, length):
    model = models(family)
    prompt = key([WORD, IMAGE, OTHER, WORD, IMAGE, WORD, OTHER, OTHER, WORD, WORD], "12")
    kept = Key(prompt.ids[:length], prompt.pictures[: prompt.count_pictures(length)], IMAGE)
    cache = cache_of(model, kept)
    assert type(cache.layers[0]) is DynamicSlidingWindowLayer
    for tokens in range(1, length + 1):
        pictures = prompt.count_pictures(tokens)
        if tokens < length and length >= 4:
            with pytest.raises(ValueError, match=f"DynamicSlidingWindowLayer cannot be cut to {tokens} tokens"):
                copy_prefix(cache, tokens, pictures, LATENTS, 20)
        else:
            copied = copy_prefix(cache, tokens, pictures, LATENTS, 20)
            assert copied.layers[0].keys.untyped_storage().nbytes() == copied.layers[0].keys.nbytes
            same(run(model, prompt, copied, tokens, pictures), run(model, prompt)[tokens:])


def test_a_copy_made_elsewhere_is_written_in_inference_mode(models):
    model, prompt = models(), key([WORD, IMAGE, WORD, OTHER], "1")
    with torch.inference_mode():
        cache = cache_of(model, prompt)
    for mode in (torch.inference_mode, torch.no_grad):
        copied = copy_prefix(cache, 2, 1, LATENTS, 20)
        with mode():
            same(run(model, prompt, copied, 2, 1), run(model, prompt)[2:])


# The store


def answer(model, store: PrefixStore, prompt: Key) -> int:
    """Run a prompt with what the store has of it and keep what comes of it; returns the tokens that it had."""
    taken = store.take(prompt, 20) or Taken(text_cache(model.config.text_config, 20))
    assert taken.cache.get_seq_length() == taken.tokens < len(prompt.ids)
    same(run(model, prompt, taken.cache, taken.tokens, taken.pictures), run(model, prompt)[taken.tokens :])
    store.keep(prompt, taken)
    return taken.tokens


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("llama", {"attend": "latest"}),
        ("llama", {"attend": "all_previous"}),
        ("llama", {"skip_blocks_without_media": False}),
        ("opt", {}),
        ("gemma2", {}),
        ("gemma3", {"attend": "all_previous"}),
    ],
)
@settings(max_examples=20, deadline=None)
@given(asked=st.lists(prompts(length=8), max_size=8), max_bytes=st.sampled_from([10**4, 10**9]))
def test_what_a_store_gives_changes_no_answer(models, family, fields, asked, max_bytes):
    model = models(family, **fields)
    store = PrefixStore(max_bytes, LATENTS, fields.get("skip_blocks_without_media", True))
    for prompt in asked:
        answer(model, store, prompt)
        assert store.size <= max_bytes


def test_pictures_change_the_text_before_them_where_blocks_are_not_skipped(models):
    model, store = models(skip_blocks_without_media=False), PrefixStore(10**6, LATENTS, skip_blocks_without_media=False)
    asked = [key([WORD, OTHER]), key([WORD, OTHER, IMAGE, WORD], "1"), key([WORD, OTHER, WORD])]
    assert [answer(model, store, prompt) for prompt in [*asked, key([WORD, OTHER, IMAGE], "2")]] == [0, 0, 2, 2]


def fake(tokens: int, room: int = 0, mark: float = 0) -> Taken:
    """A cache that takes 8 bytes a token, all of which carry a mark."""
    cache = DynamicCache()
    cache.layers.append(GrowingLayer(room or tokens))
    cache.layers[0].update(*torch.full((2, 1, 1, tokens, 1), float(mark)))
    return Taken(cache)


def find(store: PrefixStore, prompt: Key) -> tuple[float | None, int, int]:
    """The mark of the cache that a prompt goes on from, and how many tokens and pictures it has."""
    taken = store.take(prompt, 20)
    if taken is None:
        return None, 0, 0
    store.release(taken)
    assert taken.cache.get_seq_length() == taken.tokens
    return float(taken.cache.layers[0].keys[0, 0, 0, 0]), taken.tokens, taken.pictures


def stored(*keys: Key, max_bytes: int = 10**6) -> PrefixStore:
    """Caches that carry their number as a mark."""
    store = PrefixStore(max_bytes, LATENTS)
    for number, one in enumerate(keys):
        store.keep(one, fake(len(one.ids), mark=number))
    return store


def test_the_cache_that_shares_most_is_found():
    store = stored(key([1, 2, 3]), key([1, 2, 4, 6]), key([9]))
    assert find(store, key([1, 2, 3, 7])) == (0, 3, 0)
    assert find(store, key([1, 2, 4, 6, 7, 8])) == (1, 4, 0)
    assert find(store, key([1, 2, 4, 9])) == (1, 3, 0)
    assert find(store, key([8, 9])) == (None, 0, 0)
    assert find(store, key([])) == (None, 0, 0)


def test_the_last_token_is_always_computed():
    store = stored(key([1, 2, IMAGE], "1"))
    assert find(store, key([1, 2, IMAGE], "1")) == (0, 2, 0)
    assert find(store, key([1, 2])) == (0, 1, 0)
    assert find(store, key([1])) == (None, 0, 0)
    assert find(store, key([1, 2, IMAGE, 3], "1")) == (0, 3, 1)


def test_another_picture_at_the_same_place_is_not_taken():
    store = stored(key([1, IMAGE, 2, IMAGE, 3, 4], "12"))
    assert find(store, key([1, IMAGE, 2, IMAGE, 3, 4], "13")) == (0, 3, 1)
    assert find(store, key([1, IMAGE, 2, IMAGE, 3, 4], "32")) == (0, 1, 0)
    assert find(store, key([1, IMAGE, 2, IMAGE, 3, 4, 6], "12")) == (0, 6, 2)


def test_a_full_window_is_found_only_as_it_is(models):
    model = models("gemma3")
    short, full = key([9, 8]), key([1, IMAGE, 2, 3, 4], "1")
    store = PrefixStore(10**6, LATENTS)
    for one in (short, full):
        store.keep(one, Taken(cache_of(model, one)))
    assert find(store, key([9, 7, 6]))[1:] == (1, 0)
    assert find(store, key([1, IMAGE, 2, 3, 4, 6], "1"))[1:] == (5, 1)
    for other in (key([1, IMAGE, 2, 3, 4], "1"), key([1, IMAGE, 2, 3, 6, 7], "1"), key([1, IMAGE, 2, 3, 4, 6], "2")):
        assert find(store, other) == (None, 0, 0)


def test_a_prefix_gives_way_to_what_goes_on_from_it():
    store = stored(key([1, 2]), key([1, 3]), key([1, 2, IMAGE], "1"), key([1, 2, IMAGE, 4], "2"))
    assert len(store) == 3
    assert find(store, key([1, 2, 9]))[0] != 0
    store.keep(key([1, 2, IMAGE], "2"), fake(3))  # nothing that is not there already
    assert len(store) == 3
    store.keep(key([1, 2, IMAGE, 4], "2"), fake(4, mark=9))
    assert len(store) == 3 and find(store, key([1, 2, IMAGE, 4, 6], "2"))[0] == 9


def test_a_prefix_stays_where_what_goes_on_from_it_cannot_be_cut(models):
    model, short, full = models("gemma3"), key([1, 2, 3, 4, 6]), key([1, 2, 3, 4, 6, 7])
    store = PrefixStore(10**6, LATENTS)
    for one in (short, full):
        store.keep(one, Taken(cache_of(model, one)))
    assert find(store, key([1, 2, 3, 4, 6, 8]))[1] == 5
    assert find(store, key([1, 2, 3, 4, 6, 7, 8]))[1] == 6


def test_text_before_pictures_is_shared_only_where_pictures_do_not_change_it():
    seen, blind = key([1, 2, IMAGE, 3], "1"), key([1, 2, 3])
    for skip, tokens in ((True, 2), (False, 0)):
        for kept, asked in ((seen, blind), (blind, seen)):
            store = PrefixStore(10**6, LATENTS, skip_blocks_without_media=skip)
            store.keep(kept, fake(len(kept.ids)))
            assert find(store, asked)[1] == tokens
        assert find(store, key([1, 2, 4]))[1] == 2
    store.keep(key([1, 2, 3, 4, IMAGE], "1"), fake(5))
    assert len(store) == 2  # without pictures it is something else


def test_the_least_recently_used_is_dropped_first():
    store = stored(key([1] * 10), key([2] * 10), key([3] * 10), max_bytes=240)
    assert store.size == 240
    assert find(store, key([1] * 11))[0] == 0
    store.keep(key([4] * 10), fake(10))
    assert find(store, key([2] * 11)) == (None, 0, 0)
    assert find(store, key([1] * 11))[0] == 0 and find(store, key([3] * 11))[0] == 2
    store.keep(key([6] * 25), fake(25))
    assert len(store) == 1 and store.size == 200


def test_what_does_not_fit_drops_nothing():
    store = stored(key([1] * 10), max_bytes=100)
    store.keep(key([2] * 13), fake(13))
    assert len(store) == 1 and find(store, key([1] * 11))[0] == 0
    nothing = stored(key([1]), max_bytes=0)
    assert len(nothing) == nothing.size == 0


def test_bytes_are_those_of_the_buffers(models):
    store = PrefixStore(10**6, LATENTS)
    store.keep(key([1] * 10), fake(10, room=20))
    assert store.size == 160
    store.keep(key([2] * 10), fake(10, room=1000))  # so much room is given back
    assert store.size == 160 + 80
    model, store = models(), PrefixStore(10**6, LATENTS)
    cache = cache_of(model, key([1, IMAGE, 2], "1"), room=5)
    store.keep(key([1, IMAGE, 2], "1"), Taken(cache))
    text, media = cache.layers[0].keys[:, :, :1].nbytes, cache.layers[3].keys.nbytes
    assert store.size == 3 * 2 * 5 * text + 2 * 2 * media + cache.layers[3].numbers.nbytes


def test_a_key_says_as_many_tokens_as_the_cache_holds():
    with pytest.raises(ValueError, match="the cache holds 3 tokens, and its key 2"):
        PrefixStore(100, LATENTS).keep(key([1, 2]), fake(3))


def test_many_threads_share_a_store(models):
    model = models(attend="all_previous")
    one = stored_alone(model, key([WORD, IMAGE, OTHER, IMAGE, WORD, WORD, OTHER, OTHER, WORD], "12"))
    store = PrefixStore(3 * one.size, LATENTS)

    def ask(seed: int) -> int:
        random, had = Random(seed), 0
        for _ in range(15):
            ids = random.choices([WORD, OTHER, IMAGE], k=random.randint(2, 9))
            had += answer(model, store, key(ids, random.choices("12", k=ids.count(IMAGE))))
            assert store.size <= store.max_bytes
        return had

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(8))) > 0
    assert len(store) > 0


def stored_alone(model, prompt: Key) -> PrefixStore:
    """A store that has room for nothing else."""
    store = PrefixStore(10**6, LATENTS)
    store.keep(prompt, Taken(cache_of(model, prompt, 20)))
    store.max_bytes = store.size
    return store


def test_what_was_taken_can_be_written_when_the_store_has_dropped_it(models):
    model, prompt, other = models(), key([WORD, IMAGE, OTHER, WORD], "1"), key([OTHER, IMAGE, OTHER, WORD], "1")
    longer = key([*prompt.ids, WORD], "1")
    for goes_on, lends in ((prompt, False), (longer, True)):
        store = stored_alone(model, prompt)
        taken = store.take(goes_on, 20)
        assert bool(taken.lender) == lends
        store.keep(other, Taken(cache_of(model, other, 20)))
        assert find(store, goes_on) == (None, 0, 0)
        rest = run(model, goes_on, taken.cache, taken.tokens, taken.pictures)
        same(rest, run(model, goes_on)[taken.tokens :])
        store.keep(goes_on, taken)
        assert len(store) == 1


# Going on in the same memory


def memory(cache: DynamicCache) -> int:
    return cache.layers[0].keys.untyped_storage().data_ptr()


@pytest.mark.parametrize("attend", ATTEND)
def test_a_prompt_goes_on_in_the_memory_of_nearly_the_same_one(models, attend):
    model, shots = models(attend=attend), [WORD, IMAGE, OTHER, WORD, IMAGE, OTHER, WORD, OTHER]
    one, two = key([*shots, IMAGE, WORD], "123"), key([*shots, IMAGE, OTHER], "124")
    store = PrefixStore(10**6, LATENTS)
    cache = cache_of(model, one, 20)
    store.keep(one, Taken(cache))
    mine = store.take(two, 20)
    assert memory(mine.cache) == memory(cache) and (mine.tokens, mine.pictures) == (8, 2)
    beside = store.take(one, 20)  # the end of it was given up, and somebody writes there
    assert memory(beside.cache) != memory(cache) and (beside.tokens, beside.pictures) == (8, 2)
    for prompt, taken in ((two, mine), (one, beside)):
        same(run(model, prompt, taken.cache, taken.tokens, taken.pictures), run(model, prompt)[taken.tokens :])
    same(run(model, key([WORD]), mine.cache, 0, 0), run(model, key([*two.ids, WORD], "124"))[-1:])
    store.keep(key([*two.ids, WORD], "124"), mine)
    store.keep(one, beside)
    assert len(store) == 2
    for prompt in (one, two, one):
        assert answer(model, store, prompt) == len(prompt.ids) - 1


def test_what_is_released_is_lent_again():
    store = stored(key([1] * 10))
    first = store.take(key([1] * 10), 20)
    assert first.lender and not store.take(key([1] * 10), 20).lender
    store.release(first)
    assert store.take(key([1] * 10), 20).lender


def test_where_much_would_be_given_up_it_is_copied():
    store = stored(key([1] * 8 + [2] * 2), key([3] * 8 + [4] * 3))
    for asked, lends, left in ((key([1] * 9), True, (0, 8, 0)), (key([3] * 9), False, (1, 11, 0))):
        taken = store.take(asked, 20)
        assert bool(taken.lender) == lends and taken.tokens == 8
        store.release(taken)
        assert find(store, key([*([1] * 8 + [2] * 2 if lends else [3] * 8 + [4] * 3), 7])) == left


def test_what_is_too_large_to_keep_leaves_what_it_went_on_from():
    store = stored(key([1] * 10), max_bytes=100)
    taken = store.take(key([1] * 11), 20)
    taken.cache.layers[0].update(*torch.zeros(2, 1, 1, 10, 1))
    store.keep(key([1] * 20), taken)
    assert len(store) == 1 and find(store, key([1] * 11)) == (0, 10, 0)
    assert store.take(key([1] * 11), 20).lender
