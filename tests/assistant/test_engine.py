"""The oracle is transformers' own ``generate`` on the whole prompt, without any cache of earlier prompts."""

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from assistant.engine import Engine
from assistant.errors import InputError, OutOfMemoryError, PromptError
from assistant.events import Finished, Started, Token
from assistant.images import Picture
from assistant.options import Options
from assistant.prompt import Prompt
from prompts import assistant_message, user_message

COLOURS = ["red", "green", "blue", "yellow", "grey", "black"]
SEEN = [Picture(Image.new("RGB", (20, 24), colour), colour) for colour in COLOURS]
GREEDY = Options(max_new_tokens=12)


@pytest.fixture(scope="module")
def parts(assembled):
    model, processor = assembled()
    model.config.get_text_config().max_position_embeddings = 512  # rotary: any length will do
    return model.eval(), processor


@pytest.fixture
def engine(parts) -> Engine:
    return Engine(*parts, name="tiny", load_seconds=1.5)


def conversation(engine: Engine, turns: list[tuple[str, list[int]]]) -> Prompt:
    """Questions with pictures, by their numbers; between them stand answers."""
    messages = []
    for question, shown in turns:
        messages += [user_message(question, [SEEN[i] for i in shown]), assistant_message("a dog")]
    return engine.prompt(messages[:-1])


def generated(engine: Engine, prompt: Prompt, tokens: int = 12, **options) -> list[int]:
    """What transformers makes of a prompt, all of it at once."""
    images = [picture.image for picture in prompt.pictures]
    pixels = engine.processor.image_processor(images, return_tensors="pt")["pixel_values"] if images else None
    ids = torch.tensor([prompt.ids])
    mask = torch.ones_like(ids)
    output = engine.model.generate(
        input_ids=ids, attention_mask=mask, pixel_values=pixels, max_new_tokens=tokens, do_sample=False, **options
    )
    return output[0, len(prompt.ids) :].tolist()


def text(engine: Engine, ids: list[int]) -> str:
    return engine.processor.tokenizer.decode(ids, skip_special_tokens=True).strip()


def last(events) -> object:
    *_, event = events
    return event


questions = st.lists(
    st.tuples(st.sampled_from(["What is it?", "dog", "cat 2 birds", "é?"]), st.lists(st.integers(0, 5), max_size=2)),
    min_size=1,
    max_size=3,
)


# Equal answers


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=questions)
def test_an_answer_is_what_transformers_generates_cold_and_warm(engine, turns):
    prompt = conversation(engine, turns)
    expected = text(engine, generated(engine, prompt))
    fresh = Engine(engine.model, engine.processor)
    assert fresh.answer(prompt, GREEDY).text == expected
    warm = fresh.answer(prompt, GREEDY)
    assert warm.text == expected and warm.usage.cached_tokens == len(prompt.ids) - 1
    assert engine.answer(prompt, GREEDY).text == expected  # whatever was asked of this one before


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(questions, min_size=1, max_size=5))
def test_a_batch_is_its_prompts_one_by_one(engine, batch):
    prompts = [conversation(engine, turns) for turns in batch]
    together = engine.answer_all(prompts, GREEDY)
    for prompt, answer in zip(prompts, together, strict=True):
        alone = Engine(engine.model, engine.processor).answer(prompt, GREEDY)
        assert (answer.text, answer.finish_reason, answer.usage) == (alone.text, alone.finish_reason, alone.usage)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=questions, candidates=st.lists(st.text("abdog é", min_size=1, max_size=12), min_size=1, max_size=6))
def test_a_rank_is_the_probability_of_the_whole_answer(engine, turns, candidates):
    prompt = conversation(engine, turns)
    tokenizer = engine.processor.tokenizer
    pixels = None
    if prompt.pictures:
        images = [picture.image for picture in prompt.pictures]
        pixels = engine.processor.image_processor(images, return_tensors="pt")["pixel_values"]
    for candidate, score in zip(candidates, engine.rank(prompt, candidates), strict=True):
        said = [*tokenizer.encode(candidate, add_special_tokens=False), tokenizer.eos_token_id]
        with torch.no_grad():
            logits = engine.model(input_ids=torch.tensor([[*prompt.ids, *said]]), pixel_values=pixels).logits[0]
        scores = logits.log_softmax(-1)[len(prompt.ids) - 1 : -1]
        assert score == pytest.approx(scores[range(len(said)), said].sum().item(), abs=1e-3)


def test_many_candidates_are_ranked_as_few_are(engine, monkeypatch):
    prompt = conversation(engine, [("What is it?", [0])])
    candidates = [f"a dog {i}" for i in range(40)]
    whole = engine.rank(prompt, candidates)
    monkeypatch.setattr("assistant.ranking.PACKED", 16)
    assert engine.rank(prompt, candidates) == pytest.approx(whole, abs=1e-4)
    assert engine.rank(prompt, candidates[:1])[0] == pytest.approx(whole[0], abs=1e-4)


def test_beams_are_those_of_transformers(engine):
    prompt = conversation(engine, [("What is it?", [0, 1])])
    events = list(engine.stream(prompt, Options(max_new_tokens=8, beams=3)))
    assert isinstance(events[0], Started) and isinstance(events[-1], Finished)
    assert events[-1].answer.text == text(engine, generated(engine, prompt, 8, num_beams=3))


def test_a_penalty_is_that_of_transformers(engine):
    prompt = conversation(engine, [("What is it?", [0])])
    answer = engine.answer(prompt, Options(max_new_tokens=12, repetition_penalty=1.7))
    assert answer.text == text(engine, generated(engine, prompt, repetition_penalty=1.7))
    assert answer.text == engine.answer_all([prompt], Options(max_new_tokens=12, repetition_penalty=1.7))[0].text


# Only what is new


def test_only_new_tokens_and_pictures_are_computed(engine, monkeypatch):
    read, encoded = [], []
    forward, encode = engine._forward, engine.vision._encode

    def forwarded(ids, cache, latents=None, **kwargs):
        read.append((ids.shape[1], 0 if latents is None else len(latents)))
        return forward(ids, cache, latents, **kwargs)

    monkeypatch.setattr(engine, "_forward", forwarded)
    monkeypatch.setattr(engine.vision, "_encode", lambda new: encoded.extend(p.name for p in new) or encode(new))
    engine.answer(conversation(engine, [("What is it?", [0, 1])]), Options(max_new_tokens=1))
    assert read == [(read[0][0], 2)] and encoded == ["red", "green"]
    second = conversation(engine, [("What is it?", [0, 1]), ("And this?", [2])])
    answer = engine.answer(second, Options(max_new_tokens=1))
    assert read[1] == (len(second.ids) - answer.usage.cached_tokens, 1) and encoded == ["red", "green", "blue"]
    assert answer.usage.cached_tokens >= read[0][0] - 1
    engine.answer(conversation(engine, [("Other?", [1, 0])]), Options(max_new_tokens=1))
    assert read[2][1] == 2 and encoded == ["red", "green", "blue"]  # another prompt, known pictures


def test_without_room_nothing_is_kept(parts):
    engine = Engine(*parts, prefix_bytes=0, vision_bytes=0)
    prompt = conversation(engine, [("What is it?", [0, 1, 0])])
    first, second = engine.answer(prompt, GREEDY), engine.answer(prompt, GREEDY)
    assert first.text == second.text and second.usage.cached_tokens == 0


# Ends


def test_events_come_in_order_and_say_all(engine):
    prompt = conversation(engine, [("What is it?", [0])])
    events = list(engine.stream(prompt, GREEDY))
    assert events[0] == Started(len(prompt.ids)) and all(isinstance(event, Token) for event in events[1:-1])
    answer = events[-1].answer
    assert "".join(event.text for event in events[1:-1]).strip() == answer.text and answer.model == "tiny"
    assert 0 < answer.seconds["first_token"] <= answer.seconds["total"] and answer.seconds["load"] == 1.5


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(engine):
    prompt = conversation(engine, [("What is it?", [0])])
    whole = engine.answer(prompt, Options(max_new_tokens=30)).text
    word = whole[len(whole) // 2 :][:3]
    for answer in (
        engine.answer(prompt, Options(max_new_tokens=30, stop=(word,))),
        engine.answer_all([prompt], Options(max_new_tokens=30, stop=(word,)))[0],
    ):
        assert answer.finish_reason == "stop" and answer.text == whole[: whole.index(word)].strip()


def test_a_time_limit_ends_the_answer(engine):
    prompt = conversation(engine, [("What is it?", [0])])
    for options in (Options(time_limit=1e-9), Options(time_limit=1e-9, beams=2)):
        answer = last(engine.stream(prompt, options)).answer
        assert answer.finish_reason == "time" and answer.usage.completion_tokens == 1


def test_cancelling_ends_the_answer_and_twice_is_once(engine):
    prompt = conversation(engine, [("What is it?", [0])])
    cancel = threading.Event()
    events = engine.stream(prompt, Options(max_new_tokens=60), cancel)
    next(events), next(events)
    cancel.set()
    cancel.set()
    answer = last(events).answer
    assert answer.finish_reason == "cancelled" and answer.usage.completion_tokens < 60


def test_the_context_ends_the_answer(engine):
    limit = engine.context
    prompt = Prompt((7,) * (limit - 3))
    answer = engine.answer(prompt, Options(max_new_tokens=50))
    assert answer.usage.completion_tokens == 3 and answer.finish_reason in ("length", "stop")
    with pytest.raises(PromptError, match=f"{limit} tokens and the model reads {limit}"):
        engine.stream(Prompt((7,) * limit))
    with pytest.raises(PromptError, match="empty"):
        engine.answer_all([prompt, Prompt(())])


def test_a_batch_has_no_beams_and_a_rank_no_empty_candidate(engine):
    prompt = conversation(engine, [("What is it?", [])])
    with pytest.raises(InputError, match="alone"):
        engine.answer_all([prompt], Options(beams=2))
    for candidates in ([], ["a", ""]):
        with pytest.raises(InputError, match="candidate"):
            engine.rank(prompt, candidates)


# Several at once


def test_threads_do_not_mix(engine):
    prompts = [conversation(engine, [("What is it?", [i % 6]), ("And?", [(i + 1) % 6])]) for i in range(12)]
    expected = [text(engine, generated(engine, prompt)) for prompt in prompts]
    with ThreadPoolExecutor(6) as pool:
        assert [a.text for a in pool.map(lambda p: engine.answer(p, GREEDY), prompts * 3)] == expected * 3


def test_samples_follow_their_seed_whatever_runs_beside(engine):
    prompt = conversation(engine, [("What is it?", [0])])
    options = [Options(max_new_tokens=12, temperature=1.5, seed=seed) for seed in range(4)]
    before = torch.random.get_rng_state()
    expected = [engine.answer(prompt, o).text for o in options]
    with ThreadPoolExecutor(4) as pool:
        assert [a.text for a in pool.map(lambda o: engine.answer(prompt, o), options)] == expected
    assert [engine.answer_all([prompt], o)[0].text for o in options] == expected
    assert len(set(expected)) > 1 and torch.equal(before, torch.random.get_rng_state())


def test_a_consumer_that_walks_away_leaves_nothing_but_the_prefix(parts):
    engine = Engine(*parts)
    threads = threading.active_count()
    references = []
    for i in range(200):
        prompt = conversation(engine, [(f"What is {i % 3}?", [i % 6])])
        events = engine.stream(prompt, Options(max_new_tokens=20))
        for _ in range(i % 4):
            next(events)
        references.append(weakref.ref(events))
        events.close()
        del events
    gc.collect()
    assert threading.active_count() == threads and not any(reference() for reference in references)
    assert len(engine.prefixes) <= 18
    answer = engine.answer(conversation(engine, [("What is 0?", [3])]), GREEDY)
    assert answer.usage.cached_tokens > 0


def test_nothing_is_computed_before_the_first_event_is_asked_for(engine, monkeypatch):
    monkeypatch.setattr(engine, "_forward", lambda *_, **__: pytest.fail("nobody asked"))
    started = time.monotonic()
    events = engine.stream(conversation(engine, [("What is it?", [0])]))
    assert isinstance(next(events), Started) and time.monotonic() - started < 5


# Memory


def test_where_memory_runs_out_it_is_said_what_is_large(engine, monkeypatch):
    prompt = conversation(engine, [("What is it?", [0])])
    engine.answer(prompt, GREEDY)
    monkeypatch.setattr(engine, "_forward", lambda *_, **__: torch.empty(2**58))
    room = len(prompt.ids) + 12
    for ask in (
        lambda: engine.answer(prompt, GREEDY),
        lambda: engine.answer_all([prompt], GREEDY),
        lambda: engine.rank(prompt, ["a", "b"]),
    ):
        with pytest.raises(OutOfMemoryError, match=r"weights take \d+ MB and \d+ tokens .* lower max_new_tokens"):
            ask()
    with pytest.raises(OutOfMemoryError, match=f" {room} tokens "):
        engine.answer(prompt, GREEDY)
    assert len(engine.prefixes) == 0, "what was kept makes room"


def test_other_errors_stay_what_they_are(engine, monkeypatch):
    monkeypatch.setattr(engine, "_forward", lambda *_, **__: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        engine.answer(conversation(engine, [("What is it?", [])]), GREEDY)


@pytest.mark.parametrize("passes", [0, 1, 3])
def test_an_interrupted_step_leaves_nothing_that_is_half_there(parts, passes):
    engine = Engine(*parts)
    prompt, options = (
        engine.prompt([user_message("a dog?", [Picture(Image.new("RGB", (20, 24), "red"), "red")])]),
        Options(max_new_tokens=6),
    )
    right = Engine(*parts).answer(prompt, options).text
    count = iter(range(100))

    def interrupt(*_: object) -> None:
        if next(count) == passes:
            raise KeyboardInterrupt

    hook = engine.model.model.language_model.layers[1].register_forward_pre_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            engine.answer(prompt, options)
    finally:
        hook.remove()
    assert [engine.answer(prompt, options).text for _ in range(2)] == [right, right]
