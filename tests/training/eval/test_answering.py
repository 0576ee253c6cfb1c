from dataclasses import replace

import numpy as np
import pytest
import torch

from assistant.errors import ImageError, PromptError
from prompts import few_shot, user_message
from training.eval.answering import CHUNK, Pictures, Similarity, answer, prompt
from training.eval.items import Example


@pytest.fixture
def asked(items):
    """Questions with 0, 1, 2... demonstrations, so that their prompts are of different lengths."""
    return [(item.query, item.pool[:count]) for item, count in zip(items(), (0, 1, 2, 3, 0, 2), strict=True)]


def batched(tiny, files, asked, size=6):
    said = [prompt(query, demos) for query, demos in asked]
    rows = [(tiny.engine.tokens(messages), messages) for messages in said]
    seen = Pictures(tiny, files)
    return [text for i in range(0, len(rows), size) for text in answer(tiny, rows[i : i + size], seen, 8)]


def alone(tiny, query, demos):
    shown = [(demo.pictures[0], demo.question, demo.answer) for demo in demos]
    return tiny.ask(query.question, query.pictures, shown, max_new_tokens=8).text


def test_a_batch_answers_as_ask_does(tiny, files, asked):
    answers = batched(tiny, files, asked)
    assert answers == [alone(tiny, query, demos) for query, demos in asked]
    assert len(set(answers)) > 2 and all(answers), "nonsense, but not the same nonsense for all"
    assert answers == batched(tiny, files, asked, size=1) == batched(tiny, files, asked, size=4)


def test_some_answers_end_before_others(tiny, files, asked):
    tokens = {len(tiny.processor.tokenizer(text).input_ids) for text in batched(tiny, files, asked)}
    assert len(tokens) > 1


def test_rows_without_a_picture_stand_beside_rows_with_one(tiny, files, asked):
    blind = [(replace(query, pictures=()), ()) for query, _ in asked[:2]]
    expected = [alone(tiny, query, demos) for query, demos in [*blind, *asked]]
    assert batched(tiny, files, [*blind, *asked], size=8) == expected
    assert batched(tiny, files, blind) == expected[:2]


def test_a_prompt_is_what_few_shot_lays_out(asked):
    for query, demos in asked:
        shown = [(demo.pictures[0], demo.question, demo.answer) for demo in demos]
        for system in (None, "Be brief."):
            expected = few_shot(shown, user_message(query.question, query.pictures), system=system)
            assert prompt(query, demos, system) == expected


def test_the_tokens_are_those_of_the_assistant(tiny, files):
    query = Example("1", tuple(files[:2]), "<image> in [img2]? <|im_end|>", "")
    demo = Example("2", (files[2],), "[img1] <|im_start|>", "red<image>")
    whole = tiny.encode(query.question, query.pictures, [(files[2], demo.question, demo.answer)])
    assert tiny.engine.tokens(prompt(query, [demo])) == whole["input_ids"][0].tolist()


def test_the_picture_enters_with_the_first_turn(files):
    query = Example("1", (files[0],), "And [img]?", "c", history=(("What is [img1]?", "a"), ("Why?", "b")))
    roles = [(m.role, m.text, m.images) for m in prompt(query, [])]
    assert roles == [
        ("user", "What is ?", (files[0],)),
        ("assistant", "a", ()),
        ("user", "Why?", ()),
        ("assistant", "b", ()),
        ("user", "And [img]?", ()),
    ]


def test_a_prompt_that_is_too_long_is_said(tiny, files, items):
    messages = prompt(items()[0].query, items()[0].pool)
    ids = tiny.engine.tokens(messages) * 3
    with pytest.raises(PromptError, match=rf"the prompt has {len(ids)} tokens .* reads 128; leave out examples"):
        answer(tiny, [(ids, messages)], Pictures(tiny, files), 8)


def test_pictures_are_seen_once_in_fixed_chunks(tiny, files, monkeypatch, tmp_path):
    many = []
    for i in range(CHUNK + 3):
        many.append(tmp_path / f"{i:02}.png")
        many[-1].write_bytes(files[i % len(files)].read_bytes())
    sizes, progress = [], []
    tower = tiny.model.model.image_features
    monkeypatch.setattr(tiny.model.model, "image_features", lambda pixels: sizes.append(len(pixels)) or tower(pixels))
    seen = Pictures(tiny, many[::-1], lambda done, total: progress.append((done, total)))
    last = seen.latents(many[-1])
    assert last.shape == (tiny.model.config.resampler_latents, 24)
    seen.latents(many[0]), seen.features(many[1]), seen.latents(many[-1])
    assert sizes == [3, CHUNK]
    assert progress == [(3, CHUNK + 3), (CHUNK + 3, CHUNK + 3)]
    forwards = Pictures(tiny, many)
    forwards.latents(many[0])
    assert torch.equal(forwards.latents(many[-1]), last)
    assert seen.features(many[0]).shape == (12,)


def test_a_missing_picture_is_named(tiny, tmp_path):
    with pytest.raises(ImageError, match=r"absent\.png"):
        Pictures(tiny, [tmp_path / "absent.png"]).latents(tmp_path / "absent.png")


def test_similarity_is_the_cosine_of_standardised_features(tiny, files, items):
    seen = Pictures(tiny, files)
    similarity = Similarity(seen)
    examples = [item.query for item in items()]
    features = np.stack([seen.features(file) for file in files]).astype(np.float64)
    features = features[:, features.std(0) > 1e-3]  # some units of the tiny tower are dead
    standard = (features - features.mean(0)) / features.std(0)

    def cosine(one, other):
        return one @ other / np.linalg.norm(one) / np.linalg.norm(other)

    for i, one in enumerate(examples):
        for j, other in enumerate(examples):
            assert similarity(one, other) == pytest.approx(cosine(standard[i], standard[j]), abs=1e-3)
    both = replace(examples[0], pictures=(files[0], files[1]))
    mean = standard[:2].mean(0)
    assert similarity(both, examples[2]) == pytest.approx(cosine(mean, standard[2]), abs=1e-3)
    assert similarity(examples[0], replace(examples[1], pictures=())) == 0
