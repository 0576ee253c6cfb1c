from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from assistant.model.media import Media, MediaLayer, add_media_layers, lay_out, picture_counts

IMAGE, PAD, WORD = 5, 0, 7
LATENTS = 2  # per picture


def who_sees_what(rows: list[list[int]], attend: str) -> list[list[set[int]]]:
    """The definition, token by token: the numbers of the pictures that each token of each row sees."""
    seen_by = []
    for row in rows:
        pictures, tokens = 0, []
        for token in row:
            if token == IMAGE:
                pictures += 1
            if attend == "latest":
                tokens.append({pictures} if pictures else set())
            else:
                tokens.append(set(range(1, pictures + 1)))
        seen_by.append(tokens)
    return seen_by


def read(media: Media | None, numbers: torch.Tensor | None, batch: int, length: int) -> list[list[set[int]]]:
    """What a Media says, in the words of the definition."""
    if media is None:
        return [[set() for _ in range(length)] for _ in range(batch)]
    allowed = torch.zeros(batch, length, media.slots, dtype=torch.bool)
    if media.slot is not None:
        allowed[torch.arange(batch), :, media.slot] = True
    else:
        allowed[:, :, media.first :] = True if media.mask is None else media.mask[:, 0]
    said = []
    for b in range(batch):
        said.append([])
        for t in range(length):
            slots = allowed[b, t].nonzero().flatten().tolist() if media.sees[b, t] else []
            said[-1].append({int(numbers[b, slot]) for slot in slots})
    return said


def latents_of(ids: torch.Tensor) -> torch.Tensor | None:
    most = int(picture_counts(ids, IMAGE).max())
    return torch.zeros(len(ids), most, LATENTS, 1) if most else None


@st.composite
def batches(draw) -> tuple[torch.Tensor, list[int]]:
    """Rows of words and pictures, left-padded to one length, and where to cut them into chunks."""
    row = st.lists(st.sampled_from([WORD, WORD, IMAGE]), min_size=1, max_size=9)
    rows = draw(st.lists(row, min_size=1, max_size=4))
    length = max(map(len, rows))
    cuts = draw(st.sets(st.integers(1, length - 1), max_size=4)) if length > 1 else set()
    return torch.tensor([[PAD] * (length - len(row)) + row for row in rows]), [0, *sorted(cuts), length]


@pytest.mark.parametrize("attend", ["latest", "all_previous"])
@settings(max_examples=150, deadline=None)
@given(batch=batches())
def test_the_mask_is_the_loop_in_one_call_and_in_chunks(attend, batch):
    ids, cuts = batch
    layers, said = [MediaLayer()], [[] for _ in ids]
    for start, end in pairwise(cuts):
        chunk = ids[:, start:end]
        media = lay_out(chunk, IMAGE, latents_of(chunk), layers, attend)
        for row, more in zip(said, read(media, layers[0].numbers, *chunk.shape), strict=True):
            row += more
    assert said == who_sees_what(ids.tolist(), attend)


@given(batch=batches(), row=st.integers(0, 3), end=st.lists(st.sampled_from([WORD, IMAGE]), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_a_row_goes_on_alone_as_in_its_batch(batch, row, end):
    ids, layers = batch[0], [MediaLayer()]
    row %= len(ids)
    if lay_out(ids, IMAGE, latents_of(ids), layers, "latest") is not None:
        layers[0].batch_select_indices(torch.tensor([row]))
    chunk = torch.tensor([end])
    media = lay_out(chunk, IMAGE, latents_of(chunk), layers, "latest")
    whole = [[*ids[row].tolist(), *end]]
    assert read(media, layers[0].numbers, *chunk.shape)[0] == who_sees_what(whole, "latest")[0][-len(end) :]


@given(batch=batches())
@settings(max_examples=50, deadline=None)
def test_without_a_cache_the_mask_is_the_loop_as_well(batch):
    ids, _ = batch
    layers = [MediaLayer()]
    with_cache = lay_out(ids, IMAGE, latents_of(ids), layers, "latest")
    without = lay_out(ids, IMAGE, latents_of(ids), None, "latest")
    numbers = layers[0].numbers
    assert read(without, numbers, *ids.shape) == read(with_cache, numbers, *ids.shape)


@given(batch=batches())
@settings(max_examples=50, deadline=None)
def test_a_token_never_attends_to_nothing_at_all(batch):
    """A softmax over no key is not a number; `sees` drops the output of such a token instead."""
    ids, _ = batch
    media = lay_out(ids, IMAGE, latents_of(ids), None, "all_previous")
    if media is not None and media.mask is not None:
        assert media.mask.any(dim=-1).all()


def test_text_before_any_picture_runs_bare():
    assert lay_out(torch.tensor([[WORD, WORD]]), IMAGE, None, None, "latest") is None
    assert lay_out(torch.tensor([[WORD, WORD]]), IMAGE, None, [MediaLayer()], "latest") is None


def test_an_image_token_without_a_picture_counts_for_nothing_while_decoding():
    layers = [MediaLayer()]
    lay_out(torch.tensor([[IMAGE, WORD], [WORD, WORD]]), IMAGE, torch.zeros(2, 1, LATENTS, 1), layers, "latest")
    media = lay_out(torch.tensor([[IMAGE], [IMAGE]]), IMAGE, None, layers, "latest")
    assert media.sees.tolist() == [[True], [False]]
    assert layers[0].numbers.tolist() == [[1], [0]]


@pytest.fixture
def filled() -> MediaLayer:
    layer = MediaLayer()
    layer.update(torch.arange(8.0).view(2, 1, 4, 1), torch.arange(8.0).view(2, 1, 4, 1))
    layer.numbers = torch.tensor([[1, 2], [1, 0]])
    return layer


def test_cropped_text_leaves_the_pictures(filled):
    filled.crop(-3)
    assert filled.keys.shape == (2, 1, 4, 1)
    assert filled.numbers.tolist() == [[1, 2], [1, 0]]


def test_reordered_beams_leave_the_pictures(filled):
    before = filled.keys.clone()
    filled.reorder_cache(torch.tensor([1, 0]))
    assert torch.equal(filled.keys, before)


def test_reset_forgets_the_pictures(filled):
    filled.reset()
    assert filled.numbers is None
    assert lay_out(torch.tensor([[WORD], [WORD]]), IMAGE, None, [filled], "latest") is None


def test_rows_are_repeated_with_their_pictures(filled):
    filled.batch_repeat_interleave(2)
    assert filled.numbers.tolist() == [[1, 2], [1, 2], [1, 0], [1, 0]]
    assert filled.keys[:, 0, 0, 0].tolist() == [0.0, 0.0, 4.0, 4.0]
    assert filled.values[:, 0, 0, 0].tolist() == [0.0, 0.0, 4.0, 4.0]


def test_rows_are_selected_with_their_pictures(filled):
    filled.batch_select_indices(torch.tensor([1]))
    assert filled.numbers.tolist() == [[1, 0]]
    assert filled.keys[:, 0, 0, 0].tolist() == [4.0]


def test_layers_of_a_cache_without_text_have_no_numbers_to_move():
    layer = MediaLayer()
    layer.batch_repeat_interleave(2)
    layer.batch_select_indices(torch.tensor([0]))
    assert layer.numbers is None


def test_media_layers_stand_after_the_text_layers_and_are_added_once(text_configs):
    cache = DynamicCache(config=text_configs["llama"]())
    layers = add_media_layers(cache, text_layers=3, blocks=2)
    assert cache.layers[3:] == layers and all(type(layer) is MediaLayer for layer in layers)
    assert add_media_layers(cache, text_layers=3, blocks=2) == layers
    assert len(cache.layers) == 5


def test_a_cache_that_grows_lazily_gets_its_text_layers_first():
    cache = DynamicCache()
    layers = add_media_layers(cache, text_layers=3, blocks=2)
    assert len(cache.layers) == 5 and cache.layers[3:] == layers
    assert not any(isinstance(layer, MediaLayer) for layer in cache.layers[:3])
