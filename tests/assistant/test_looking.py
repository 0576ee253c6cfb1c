"""The oracle is attention written out, head by head, from what goes into the attention modules."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from assistant.api import Assistant
from assistant.errors import InputError
from assistant.images import Picture
from assistant.looking import Looked, View, Word, find_words, heat_map, look, roll_out
from assistant.options import Options
from assistant.parts import PARTS, part_state
from assistant.prompt import Prompt

IMAGE_ID = 5  # of tiny models without a tokenizer
SAID = (40, 41, 42)
WHOLE = View((0, 0, 32, 32), (32, 32), (2, 2), 16)


def noise(width: int = 32, height: int = 32, seed: int = 0) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Picture(Image.fromarray(pixels), f"noise {seed}")


def stretched(side: int):
    from transformers import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": side, "width": side})


@pytest.fixture
def parts(make, byte_tokenizer):
    """A model that has whatever a latent can start from, over 3 x 3 patches."""
    fields = {"pooled_latents": True, "resampler_grid": 2, "resampler_latents": 6, "resampler_depth": 2}
    model = make("llama", "efficientnet-lite", **fields).model.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in model.model.resampler.layers.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return model, SimpleNamespace(tokenizer=byte_tokenizer(), image_processor=stretched(96))


@pytest.fixture
def prompt() -> Prompt:
    return Prompt((1, 9, IMAGE_ID, 8, 7), (noise(),))


def inputs_of(modules, run) -> list:
    """What goes into modules while something runs."""
    seen = []
    hooks = [module.register_forward_pre_hook(lambda _, given: seen.append(given)) for module in modules]
    run()
    for hook in hooks:
        hook.remove()
    return seen


def mean_softmax(queries, keys, heads) -> torch.Tensor:
    """queries [L, H * d], keys [S, H * d] -> [L, S]."""
    width = queries.shape[1] // heads
    parts = [slice(i * width, (i + 1) * width) for i in range(heads)]
    return sum((queries[:, p] @ keys[:, p].T / width**0.5).softmax(1) for p in parts) / heads


@torch.no_grad()
def by_hand(parts, prompt, said) -> np.ndarray:
    """Weights of 9 patches for each token."""
    model, processor = parts
    pixels = processor.image_processor([p.image for p in prompt.pictures], return_tensors="pt")["pixel_values"]
    resampling = [layer.attention for layer in model.model.resampler.layers]
    ids = torch.tensor([[*prompt.ids, *said]])
    seen = inputs_of(resampling, lambda: model(input_ids=ids, pixel_values=pixels))
    patches = torch.eye(9)
    tokens = torch.cat((torch.zeros(1, 9), patches.mean(0, keepdim=True), patches))  # class, mean, patches
    latents = torch.zeros(6, 9)
    corners = torch.arange(9).view(3, 3)
    for i, (y, x) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        latents[i, corners[y : y + 2, x : x + 2].flatten()] = 0.25  # cells of 3 / 2 patches overlap
    for attention, (before, media, *_) in zip(resampling, seen, strict=True):
        kept, added = before[-1].norm(dim=1), attention(before, media)[-1].norm(dim=1)
        kept = (kept / (kept + added))[:, None]
        state, media = attention.norm_latents(before[-1]), attention.norm_media(media[-1])
        keys = attention.to_kv(torch.cat((media, state))).chunk(2, dim=-1)[0]
        weights = mean_softmax(attention.to_q(state), keys, attention.heads)
        latents = kept * latents + (1 - kept) * (weights[:, :11] @ tokens + weights[:, 11:] @ latents)
    blocks = [layer.gated_cross_attention for layer in model.model.language_model.layers]
    gated = [block.attention for block in blocks if block is not None]
    attended = []
    for attention, (state, keys, *_) in zip(
        gated, inputs_of(gated, lambda: model(input_ids=ids, pixel_values=pixels)), strict=True
    ):
        queries = attention.to_q(attention.norm(state[0, len(prompt.ids) :]))
        keys = keys[0, :, -6:].transpose(0, 1).flatten(1)  # of the latest picture
        attended.append(mean_softmax(queries, keys, attention.heads))
    weights = sum(attended) / len(attended) @ latents
    return (weights / weights.sum(1, keepdim=True)).numpy()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_weights_are_those_of_attention_written_out(parts, prompt, implementation):
    parts[0].set_attn_implementation(implementation)
    looked = look(*parts, prompt, SAID)
    expected = by_hand(parts, prompt, SAID)
    assert expected.std(1).min() > 0.01  # they differ from patch to patch
    np.testing.assert_allclose(looked.tokens.reshape(3, 9), expected, atol=1e-5)


@pytest.mark.parametrize("attend", ["latest", "all_previous"])
def test_the_latest_picture_is_the_one(parts, attend):
    parts[0].config.attend = attend
    first, second = noise(seed=1), noise(seed=2)
    looked = look(*parts, Prompt((1, IMAGE_ID, 9, IMAGE_ID, 8), (first, second)), SAID)
    assert looked.picture is second
    np.testing.assert_allclose(looked.tokens.sum((1, 2)), 1, atol=1e-5)
    if attend == "latest":
        prompt = Prompt((1, IMAGE_ID, 9, IMAGE_ID, 8), (first, second))
        np.testing.assert_allclose(looked.tokens.reshape(3, 9), by_hand(parts, prompt, SAID), atol=1e-5)


def test_weights_of_a_word_are_the_mean_of_its_tokens_and_sum_to_one(parts, prompt):
    looked = look(*parts, prompt, SAID)
    looked = dataclasses.replace(looked, words=(Word("ab", 0, 2), Word("bc", 1, 3)))
    np.testing.assert_allclose(looked.weights(0), looked.tokens[:2].mean(0))
    np.testing.assert_allclose(looked.weights(), looked.tokens.mean(0))  # every token once
    assert looked.weights(1).min() >= 0 and looked.weights(1).sum() == pytest.approx(1, abs=1e-5)
    assert looked.map(0).max() == 1 and looked.map(0).min() >= 0
    with pytest.raises(IndexError):
        looked.weights(2)


def test_the_model_is_as_before_also_when_it_fails(parts, prompt, monkeypatch):
    model, _ = parts
    model.set_attn_implementation("sdpa")

    def state():
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        return model.config.to_dict(), model.config._attn_implementation, hooks, [*map(vars, model.modules())]

    before = [repr(x) for x in state()[:3]], [set(x) for x in state()[3]]
    look(*parts, prompt, SAID)
    assert ([repr(x) for x in state()[:3]], [set(x) for x in state()[3]]) == before
    with pytest.raises(ValueError, match="image tokens"):
        look(*parts, Prompt((1, 9), prompt.pictures), SAID)
    monkeypatch.setattr(model.model.language_model.layers[2].mlp, "forward", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        look(*parts, prompt, SAID)
    monkeypatch.undo()
    assert ([repr(x) for x in state()[:3]], [set(x) for x in state()[3]]) == before


def test_rollout_keeps_of_a_latent_what_stays():
    attends = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])  # to patch 1; to latent 0
    layer = (attends, torch.tensor([[0.75], [0.5]]))
    start = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert roll_out([layer], torch.eye(2), start).tolist() == [[0.75, 0.25], [0.5, 0.0]]
    assert roll_out([layer, layer], torch.eye(2), start).tolist() == [[0.5625, 0.4375], [0.625, 0.125]]


def test_an_answer_without_a_picture_or_without_words_is_an_error_that_says_so(parts, prompt):
    with pytest.raises(InputError, match="no picture before the answer"):
        look(*parts, Prompt((1, 9, 8)), SAID)
    for said in ((), (2,)):  # nothing, and the end
        with pytest.raises(InputError, match="no words"):
            look(*parts, prompt, said)


# Words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a red dog.", ["a", "red", "dog", "."]),
        ("It's a well-known dog's", ["It's", "a", "well-known", "dog's"]),
        ("红色的狗。", ["红", "色", "的", "狗", "。"]),
        (" \n two  birds", ["two", "birds"]),
        ("é 😀", ["é", "😀"]),
    ],
)
def test_words_have_their_tokens(byte_tokenizer, text, words):
    tokenizer = byte_tokenizer()
    said = [*tokenizer.encode(text), tokenizer.eos_token_id]
    found = find_words(tokenizer, said)
    assert [word.text for word in found] == words
    for word in found:
        assert word.text in tokenizer.decode(said[word.start : word.end])
        assert word.text not in tokenizer.decode(said[word.start + 1 : word.end])
    assert all(one.start <= other.start for one, other in itertools.pairwise(found))


def test_words_of_sentencepiece_have_their_tokens(sentencepiece_tokenizer):
    tokenizer = sentencepiece_tokenizer()
    said = tokenizer.encode("a lazy dog 狗", add_special_tokens=False)
    found = find_words(tokenizer, said)
    assert [word.text for word in found] == ["a", "lazy", "dog", "狗"]
    assert found[0].start == 0 and found[-1].end == len(said)
    assert [tokenizer.decode(said[word.start : word.end]).strip() for word in found] == ["a", "lazy", "dog", "狗"]


# Over the picture


def peak(looked: Looked) -> tuple[float, float]:
    """Middle of what is brightest, as shares of width and height."""
    spread = looked.map()
    y, x = np.nonzero(spread > 0.999)
    return (x.mean() + 0.5) / spread.shape[1], (y.mean() + 0.5) / spread.shape[0]


def only(looked: Looked, row: int, column: int) -> Looked:
    tokens = np.zeros_like(looked.tokens)
    tokens[:, row, column] = 1
    return dataclasses.replace(looked, tokens=tokens)


@pytest.fixture
def clip_parts(make, byte_tokenizer, image_processor):
    return make("llama", "clip").model.eval(), SimpleNamespace(
        tokenizer=byte_tokenizer(), image_processor=image_processor
    )


@pytest.mark.parametrize("turned", [False, True])
def test_a_wide_picture_that_is_cut_in_the_middle(clip_parts, turned):
    size = (80, 160) if turned else (160, 80)
    looked = look(*clip_parts, Prompt((1, IMAGE_ID), (noise(*size),)), SAID)
    spread = looked.map().T if turned else looked.map()
    assert spread.shape == (80, 160)
    assert not spread[:, :40].any() and not spread[:, 120:].any() and spread[:, 40:120].min() > 0
    corner = only(looked, 1, 0)
    x, y = peak(corner)
    assert (x, y) == pytest.approx((0.125, 0.6875) if turned else (0.3125, 0.875), abs=0.01)


@pytest.mark.parametrize("size", [(160, 80), (80, 160), (31, 17)])
def test_a_picture_that_is_stretched(clip_parts, size):
    parts = (clip_parts[0], SimpleNamespace(tokenizer=clip_parts[1].tokenizer, image_processor=stretched(16)))
    looked = look(*parts, Prompt((1, IMAGE_ID), (noise(*size),)), SAID)
    spread = looked.map()
    assert spread.shape == size[::-1] and spread.min() > 0
    assert peak(only(looked, 0, 1)) == pytest.approx((0.875, 0.125), abs=0.03)  # bilinear up to the edge


def test_a_picture_that_is_padded():
    looked = Looked(
        noise(20, 10), (Word("a", 0, 1),), np.full((1, 2, 2), 0.25), View((0, -5, 20, 15), (16, 16), (2, 2), 8)
    )
    np.testing.assert_allclose(looked.map(), np.ones((10, 20)), atol=1e-6)
    high, low = only(looked, 0, 0), only(looked, 1, 0)
    assert high.map()[0, 0] == 1  # the middle of the upper patch lies on the edge
    assert high.map()[9, 0] == pytest.approx(0.05, abs=0.01) and low.map()[9, 0] == 1


def test_between_patches_it_is_bilinear():
    tokens = np.array([[[0.1, 0.2], [0.3, 0.4]]])
    spread = Looked(noise(), (Word("a", 0, 1),), tokens, WHOLE).map()
    assert spread[0, 0] == pytest.approx(0.25) and spread[31, 31] == 1
    assert spread[15:17, 15:17].mean() == pytest.approx(0.25 / 0.4)
    across = np.diff(spread[0, 8:24])
    np.testing.assert_allclose(across, across[0], atol=1e-6)


def test_patches_of_padded_convolutions_reach_to_the_edges(make, byte_tokenizer):
    """Five convolutions halve 260 pixels to 9 patches: 32 pixels apart, the outer ones next to the edges."""
    model = make("llama", "efficientnet-lite").model.eval()
    parts = (model, SimpleNamespace(tokenizer=byte_tokenizer(), image_processor=stretched(260)))
    looked = look(*parts, Prompt((1, IMAGE_ID), (noise(260, 260),)), SAID)
    assert looked.tokens.shape == (3, 9, 9)
    peaks = [peak(only(looked, i, i))[0] * 260 for i in range(9)]
    assert peaks[1:8] == pytest.approx([34, 66, 98, 130, 162, 194, 226], abs=1)


def test_a_heat_map_is_the_picture_where_nothing_covers_it():
    image = noise(12, 8).image
    weights = np.zeros((8, 12), np.float32)
    weights[0, 0] = 1
    assert heat_map(image, weights, 0).tobytes() == image.tobytes()
    covered = np.asarray(heat_map(image, weights, 1)).astype(int)
    assert covered.shape == (8, 12, 3)
    assert covered[0, 0].sum() > 600 and covered[1:].sum(2).max() < 10
    half = np.asarray(heat_map(image.convert("RGBA"), weights)).astype(int)
    np.testing.assert_allclose(half, 0.45 * np.asarray(image) + 0.55 * covered, atol=1)
    with pytest.raises(ValueError, match=r"\(8, 12\)"):
        heat_map(image, weights.T)


# The assistant


@pytest.fixture(scope="module")
def default() -> Assistant:
    if any(part_state(name) != "ready" for name in PARTS):
        pytest.skip("needs the frozen parts: assistant models fetch")
    return Assistant.from_pretrained("default")


def test_the_assistant_looks_behind_the_text_of_an_answer(assembled):
    model, processor = assembled()
    assistant = Assistant(model.eval(), processor)
    prompt = assistant.prompt("What is in the picture?", [noise().image])
    looked = assistant.look(prompt, "a dog")
    said = processor.tokenizer.encode("a dog", add_special_tokens=False)
    assert [word.text for word in looked.words] == ["a", "dog"]
    np.testing.assert_array_equal(looked.tokens, look(model, processor, prompt, said).tokens)
    forged = assistant.look(prompt, "an <image>")  # as text, not as a picture
    assert [word.text for word in forged.words] == ["an", "<", "image", ">"]


@pytest.mark.slow
@pytest.mark.parametrize(("x", "y"), [(60, 60), (200, 60), (60, 200), (200, 200)])
def test_the_default_looks_at_the_thing_that_it_names_the_colour_of(default, x, y):
    box = (x - 40, y - 40, x + 40, y + 40)
    image = Image.new("RGB", (260, 260), "white")
    ImageDraw.Draw(image).ellipse(box, fill="red")
    prompt = default.prompt("What colour is it?", [image])
    spread = default.look(prompt, default.engine.answer(prompt, Options(max_new_tokens=8)).text).map()
    left, top, right, bottom = box
    assert spread[top:bottom, left:right].sum() / spread.sum() > 2 * (80 * 80) / (260 * 260)
