"""Cached, batched and compiled answers of several language models, against plain forward passes over everything."""

import functools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from assistant import ranking
from assistant.engine import Engine
from assistant.images import Picture
from assistant.options import Options
from assistant.prompt import Prompt

IMAGE = 5
SEEN = [Picture(Image.new("RGB", (20, 24), colour), colour) for colour in ("red", "green", "blue", "grey", "black")]
KINDS = [(text, attend) for text in ("llama", "opt") for attend in ("latest", "all_previous")]


@pytest.fixture(scope="module")
def build(make, assembled):
    """Make an engine, of a model that never ends an answer by itself."""
    _, processor = assembled()
    compiler = torch.compile

    def traced(step, **_):  # the graph is what is tested, not what runs it
        return compiler(step, fullgraph=True, backend="eager")

    @functools.cache
    def model(text: str, attend: str):
        made = make(text, attend=attend).model.eval()
        made.generation_config.eos_token_id = None
        return made

    @functools.cache
    def built(text: str, attend: str, compile: bool = False, number: int = 0) -> Engine:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "compile", traced)
            return Engine(model(text, attend), processor, compile=compile)

    return built


def expected(engine: Engine, prompt: Prompt, tokens: int) -> list[int]:
    """Greedy tokens, everything computed anew for each."""
    model, ids = engine.model, list(prompt.ids)
    images = [picture.image for picture in prompt.pictures]
    pixels = engine.processor.image_processor(images, return_tensors="pt")["pixel_values"] if images else None
    for _ in range(tokens):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), pixel_values=pixels, use_cache=False).logits[0, -1]
        logits[IMAGE] = float("-inf")
        ids.append(int(logits.argmax()))
    return ids[len(prompt.ids) :]


def said(engine: Engine, prompt: Prompt, tokens: int) -> list[int]:
    """Greedy tokens of the engine."""
    options = Options(max_new_tokens=tokens)
    start = engine._start(prompt, len(prompt.ids) + tokens)
    steps = engine._tokens(prompt, start, options)
    found = [next(steps) for _ in range(tokens)]
    steps.close()
    engine._keep(prompt, found, start)
    return found


prompts = st.lists(st.one_of(st.just(IMAGE), st.integers(6, 95), st.integers(6, 95)), min_size=1, max_size=12).filter(
    lambda ids: ids.count(IMAGE) <= 5
)


def shown(ids: list[int], first: int) -> Prompt:
    """A prompt with pictures that start from one of them."""
    return Prompt(tuple(ids), tuple(SEEN[(first + i) % len(SEEN)] for i in range(ids.count(IMAGE))))


@pytest.mark.parametrize(("text", "attend"), KINDS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=prompts, second=prompts, number=st.integers(0, 4))
def test_cold_warm_and_compiled_say_the_same(build, text, attend, first, second, number):
    engine, compiled = build(text, attend), build(text, attend, compile=True)
    engine.forget()
    compiled.forget()
    one, both = shown(first, number), shown(first + second, number)
    for prompt in (one, both, one):
        wanted = expected(engine, prompt, 6)
        assert said(engine, prompt, 6) == wanted
        assert said(compiled, prompt, 6) == wanted


@pytest.mark.parametrize(("text", "attend"), KINDS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(prompts, min_size=1, max_size=4), number=st.integers(0, 4))
def test_a_batch_says_what_its_prompts_say(build, text, attend, batch, number):
    engine = build(text, attend)
    asked = [shown(ids, number) for ids in batch]
    together = engine.answer_all(asked, Options(max_new_tokens=6))
    decode = engine.processor.tokenizer.decode
    for prompt, answer in zip(asked, together, strict=True):
        assert answer.text == decode(expected(engine, prompt, 6), skip_special_tokens=True).strip()


@pytest.mark.parametrize(("text", "attend"), [*KINDS, ("gemma3", "latest")])
def test_a_rank_is_the_probability_of_the_answer_packed_or_in_rows(build, text, attend, monkeypatch):
    engine = build(text, attend)
    prompt = shown([7, IMAGE, 8, 9, IMAGE, 10, 11, 12, 13], 1)
    answers = [[20], [21, 22, 23], [24, 25]]
    wanted = []
    pixels = engine.processor.image_processor([p.image for p in prompt.pictures], return_tensors="pt")["pixel_values"]
    for answer in answers:
        with torch.no_grad():
            logits = engine.model(input_ids=torch.tensor([[*prompt.ids, *answer]]), pixel_values=pixels).logits[0]
        scores = logits.log_softmax(-1)[len(prompt.ids) - 1 : -1]
        wanted.append(scores[range(len(answer)), answer].sum().item())
    assert engine._scores(prompt, answers) == pytest.approx(wanted, abs=1e-4)
    monkeypatch.setattr(ranking, "_score_packed", ranking._score_rows)
    assert engine._scores(prompt, answers) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("attend", ["latest", "all_previous"])
def test_a_step_is_compiled_once_whatever_the_lengths(build, attend):
    engine = build("llama", attend, compile=True, number=11)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    for length in (1, 7, 30):
        for pictures in (1, 3):
            prompt = shown([IMAGE] * pictures + list(range(6, 6 + length)), 0)
            engine.answer(prompt, Options(max_new_tokens=20))
    engine.answer(shown([7, 8], 0), Options(max_new_tokens=20))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.slow
def test_there_is_no_end_of_models_that_are_compiled(build):
    prompt, options = shown([7, IMAGE, 8], 0), Options(max_new_tokens=3)
    engines = [build("llama", "latest", compile=True, number=number) for number in range(1, 11)]
    answers = {engine.answer(prompt, options).text for engine in engines}
    assert answers == {build("llama", "latest").answer(prompt, options).text}


def test_layers_that_slide_cannot_be_compiled_and_say_so(build):
    from assistant.errors import ModelError

    with pytest.raises(ModelError, match=r"cannot be compiled: .*Sliding.* without compile"):
        build("gemma3", "latest", compile=True).answer(shown([7, 8], 0), Options(max_new_tokens=4))


@pytest.mark.slow
@pytest.mark.parametrize(("text", "attend"), KINDS)
def test_the_program_says_what_the_model_says(make, assembled, text, attend):
    model = make(text, attend=attend).model.eval()
    model.generation_config.eos_token_id = None
    engine = Engine(model, assembled()[1], compile=True)
    for pictures in range(6):
        prompt = shown([7, *[IMAGE] * pictures, 8, 9], pictures % 5)
        assert said(engine, prompt, 48) == expected(engine, prompt, 48)
