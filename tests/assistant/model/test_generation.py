import copy
from threading import Thread

import pytest
import torch
from torch import nn
from transformers import DynamicCache, GenerationConfig, TextIteratorStreamer, set_seed

from assistant.model import FlamingoForConditionalGeneration

IMAGE = 5
# Rows with no, two, one and one picture.
IDS = torch.tensor([[0, 0, 0, 1, 7, 8], [1, IMAGE, 7, IMAGE, 8, 9], [0, 0, 1, IMAGE, 8, 9], [0, 1, 7, 8, 9, IMAGE]])
MASK = (IDS != 0).long()
GREEDY = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def pixels(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


BATCH = {"input_ids": IDS, "attention_mask": MASK, "pixel_values": pixels(4)}


@pytest.fixture(scope="module", params=["latest", "all_previous"])
def model(request, make):
    return make(attend=request.param).model


def rows() -> list[dict[str, torch.Tensor]]:
    """The batch as calls with one row each and no padding."""
    singles, start = [], 0
    for row in IDS:
        ids = row[row != 0][None]
        count = int((ids == IMAGE).sum())
        singles.append({"input_ids": ids})
        if count:
            singles[-1]["pixel_values"] = pixels(4)[start : start + count]
        start += count
    return singles


def test_rows_of_a_batch_are_answered_as_if_they_were_alone(model):
    batch = model.generate(**BATCH, **GREEDY)[:, IDS.shape[1] :]
    alone = torch.cat([model.generate(**row, **GREEDY)[:, row["input_ids"].shape[1] :] for row in rows()])
    assert torch.equal(batch, alone)
    assert len({tuple(row) for row in batch.tolist()}) > 1


def test_beams_with_a_cache_are_beams_without(model):
    beams = {**GREEDY, "num_beams": 3, "num_return_sequences": 2}
    cached = model.generate(**BATCH, **beams)
    assert cached.shape == (8, 11)
    assert torch.equal(cached, model.generate(**BATCH, **beams, use_cache=False))
    alone = [model.generate(**row, **beams)[:, row["input_ids"].shape[1] :] for row in rows()]
    assert torch.equal(cached[:, 6:], torch.cat(alone))


def test_samples_follow_the_seed_and_are_several_for_a_prompt(model):
    def sample(seed: int) -> torch.Tensor:
        set_seed(seed)
        options = {**GREEDY, "do_sample": True, "temperature": 2.0, "num_return_sequences": 3}
        return model.generate(**BATCH, **options)

    first = sample(1)
    assert first.shape == (12, 11)
    assert torch.equal(first, sample(1)) and not torch.equal(first, sample(2))
    assert len({tuple(row) for row in first[:3].tolist()}) > 1
    assert torch.equal(first[:, :6], IDS.repeat_interleave(3, dim=0))


def eager_to_emit_a_picture(model):
    """The model with a head that wants the image token more than anything."""
    eager = copy.deepcopy(model)
    head = nn.Linear(16, 96)
    head.weight, head.bias.data[IMAGE] = eager.lm_head.weight, 1e4
    eager.lm_head = head
    return eager


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3},
        {"do_sample": True, "top_k": 1},
        {"suppress_tokens": [3]},  # a user's own list replaces that of a configuration
        {"use_cache": False},
        {"prompt_lookup_num_tokens": 2},
    ],
    ids=str,
)
def test_no_picture_is_ever_generated(model, options):
    eager = eager_to_emit_a_picture(model)
    ask = rows()[1] if "prompt_lookup_num_tokens" in options else BATCH
    answer = eager.generate(**ask, **{**GREEDY, **options})[:, ask["input_ids"].shape[1] :]
    assert not (answer == IMAGE).any() and answer.shape[1] == 5


def test_no_picture_is_generated_whatever_the_generation_configuration_says(model):
    fresh = FlamingoForConditionalGeneration(model.config).eval()
    for eager in (eager_to_emit_a_picture(model), eager_to_emit_a_picture(fresh)):
        eager.generation_config = GenerationConfig(eos_token_id=None, pad_token_id=0, use_cache=True)
        answer = eager.generate(**BATCH, generation_config=GenerationConfig(max_new_tokens=4))
        assert not (answer[:, 6:] == IMAGE).any()


def test_what_the_language_model_suppresses_stays_suppressed(text_configs, towers, bridge):
    from transformers import AutoModel, AutoModelForCausalLM

    from assistant.model.assembly import join

    language_model = AutoModelForCausalLM.from_config(text_configs["llama"]()).eval()
    language_model.generation_config.suppress_tokens = list(range(10, 96))
    vision, reading = towers["clip"]()
    model = join(AutoModel.from_config(vision), language_model, image_token_id=IMAGE, **bridge, **reading)
    answer = model.generate(**BATCH, **GREEDY)[:, 6:]
    assert (answer < 10).all() and not (answer == IMAGE).any()


def test_text_alone_is_what_the_bare_language_model_says(make):
    model, bare = make()
    torch.manual_seed(0)
    for length in range(1, 11):
        ids = torch.randint(6, 96, (1, length))
        expected = bare.generate(input_ids=ids, suppress_tokens=[IMAGE], **GREEDY)
        assert torch.equal(model.generate(input_ids=ids, **GREEDY), expected)


@pytest.fixture
def prefix(model):
    """A cache of the first tokens of two rows, the rest of them and the answer to all in one call."""
    ids = torch.tensor([[1, IMAGE, 7, 8, 9, IMAGE, 7], [1, 7, 7, 8, 9, 10, IMAGE]])
    images = pixels(3)
    whole = model.generate(input_ids=ids, pixel_values=images, **GREEDY)
    cache = DynamicCache(config=model.config.text_config)
    with torch.no_grad():
        model(input_ids=ids[:, :4], pixel_values=images[:1], past_key_values=cache)
    return cache, ids, images[1:], whole


def test_a_cached_prefix_goes_on_with_new_pictures(model, prefix):
    cache, ids, images, whole = prefix
    assert torch.equal(model.generate(input_ids=ids, pixel_values=images, past_key_values=cache, **GREEDY), whole)


def test_a_cached_prefix_goes_on_with_only_the_new_tokens(model, prefix):
    cache, ids, images, whole = prefix
    answer = model.generate(
        input_ids=ids[:, 4:],
        attention_mask=torch.ones_like(ids),
        pixel_values=images,
        past_key_values=cache,
        **GREEDY,
    )
    assert torch.equal(answer[:, 3:], whole[:, 7:])


def test_a_cached_prefix_serves_many_questions_and_beams(model, prefix):
    cache, ids, images, whole = prefix
    for _ in range(2):
        answer = model.generate(input_ids=ids, pixel_values=images, past_key_values=copy.deepcopy(cache), **GREEDY)
        assert torch.equal(answer, whole)
    beams = {**GREEDY, "num_beams": 2}
    repeated = copy.deepcopy(cache)
    repeated.batch_repeat_interleave(2)
    first_picture = pixels(3)[:1]
    expected = model.generate(input_ids=ids, pixel_values=torch.cat((first_picture, images)), **beams)
    assert torch.equal(model.generate(input_ids=ids, pixel_values=images, past_key_values=repeated, **beams), expected)


def test_a_cached_text_goes_on_with_its_first_picture(model):
    ids = torch.tensor([[1, 7, 8, IMAGE, 9]])
    cache = DynamicCache(config=model.config.text_config)
    with torch.no_grad():
        model(input_ids=ids[:, :2], past_key_values=cache)
    ask = {"input_ids": ids, "pixel_values": pixels(1)}
    assert torch.equal(model.generate(**ask, past_key_values=cache, **GREEDY), model.generate(**ask, **GREEDY))


def test_a_conversation_goes_on_from_the_cache_of_its_first_answer(model):
    first = model.generate(input_ids=IDS[1:2], pixel_values=pixels(2), return_dict_in_generate=True, **GREEDY)
    ids = torch.cat((first.sequences, torch.tensor([[10, IMAGE, 11]])), dim=1)
    images = pixels(3)
    followed = model.generate(input_ids=ids, pixel_values=images[2:], past_key_values=first.past_key_values, **GREEDY)
    assert torch.equal(followed, model.generate(input_ids=ids, pixel_values=images, **GREEDY))


@pytest.mark.parametrize("given", [0, 1, 3])
def test_pictures_after_a_prefix_are_counted(model, prefix, given):
    cache, ids, _, _ = prefix
    images = pixels(given) if given else None
    with pytest.raises(ValueError, match=rf"image tokens.* {given} pictures"):
        model.generate(input_ids=ids, pixel_values=images, past_key_values=cache, **GREEDY)


def test_other_ways_to_generate_say_the_same(model):
    ask = rows()[1]
    expected = model.generate(**ask, **GREEDY)
    assert torch.equal(model.generate(**ask, **GREEDY, prompt_lookup_num_tokens=2), expected)
    assert torch.equal(model.generate(**ask, **GREEDY, cache_implementation="static", disable_compile=True), expected)
    encoded = model.model.image_latents(ask["pixel_values"], ask["input_ids"])
    assert torch.equal(model.generate(input_ids=ask["input_ids"], image_latents=encoded, **GREEDY), expected)


def test_a_picture_is_encoded_once_for_all_its_beams_and_tokens(model, monkeypatch):
    seen = []
    features = model.model.image_features
    monkeypatch.setattr(model.model, "image_features", lambda images: seen.append(len(images)) or features(images))
    model.generate(**BATCH, **{**GREEDY, "num_beams": 3})
    assert seen == [4]


def test_an_answer_can_be_streamed(model, byte_tokenizer):
    tokenizer = byte_tokenizer()
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    thread = Thread(target=model.generate, kwargs={**rows()[1], **GREEDY, "streamer": streamer})
    thread.start()
    streamed = "".join(streamer)
    thread.join()
    assert streamed == tokenizer.decode(model.generate(**rows()[1], **GREEDY)[0, 6:])
