import numpy as np
import pytest
import torch

from training.bridge.samples import KINDS, QUESTIONS, Name, Sampler, pick

ROWS = np.arange(10)


def rows_of(batch):
    """(prompt, answer) token ids of every row, without padding."""
    found = []
    for ids, labels in zip(batch.input_ids.tolist(), batch.labels.tolist(), strict=True):
        start = next(i for i, label in enumerate(labels) if label != -100)
        end = len(labels) - next(i for i, label in enumerate(reversed(labels)) if label != -100)
        assert labels[:start] == [-100] * start and labels[end:] == [-100] * (len(labels) - end)
        assert labels[start:end] == ids[start:end]
        found.append((ids[:start], ids[start:end]))
    return found


def test_the_order_of_the_kinds_is_kept():
    assert KINDS == ("caption", "photo_caption", "chat", "photo_chat")  # it is part of every batch's seed


@pytest.mark.parametrize("kind", ["caption", "photo_caption"])
def test_a_caption_is_a_picture_a_name_and_an_end(sampler, processor, kind):
    batch = sampler().draw(kind, 8, step=0, rows=ROWS)
    assert len(batch.prefix) == 0
    tokenizer, names = processor.tokenizer, set()
    for prompt, answer in rows_of(batch):
        assert prompt == [processor.image_token_id]
        assert answer[-1] == tokenizer.convert_tokens_to_ids("<|endofchunk|>")
        names.add(tokenizer.decode(answer[:-1]))
    known = {
        name.text
        for options in (sampler().class_names if "photo" in kind else sampler().picture_names)
        for name in options
    }
    assert names <= known and len(names) > 2


@pytest.mark.parametrize("kind", ["chat", "photo_chat"])
def test_a_chat_is_what_the_processor_makes_of_the_same_messages(sampler, processor, picture, kind):
    batch = sampler().draw(kind, 8, step=0, rows=ROWS)
    questions = set()
    for prompt, answer in rows_of(batch):
        text = processor.tokenizer.decode(answer)
        assert text.endswith(".<|im_end|>")
        said = text.removesuffix("<|im_end|>")
        assert said[0].isupper()
        question = processor.tokenizer.decode(prompt[1:]).split("<|im_end|>")[0]
        questions.add(question)
        user = {
            "role": "user",
            "content": [{"type": "image", "image": picture("red")}, {"type": "text", "text": question}],
        }
        whole = [user, {"role": "assistant", "content": [{"type": "text", "text": said}]}]
        options = {"tokenize": True, "return_dict": True}
        asked = processor.apply_chat_template([user], add_generation_prompt=True, **options)["input_ids"][0]
        assert [*batch.prefix.tolist(), *prompt] == list(asked)
        answered = list(processor.apply_chat_template(whole, **options)["input_ids"][0])
        row = [*batch.prefix.tolist(), *prompt, *answer]
        assert answered[: len(row)] == row
        assert processor.tokenizer.decode(answered[len(row) :]) == "\n"  # what follows the end of a turn is not taught
    assert questions <= set(QUESTIONS) and len(questions) > 2


@pytest.mark.parametrize("kind", ["caption", "chat"])
def test_a_row_shows_the_picture_that_it_names(sampler, processor, cache, kind):
    drawn = sampler()
    batch = drawn.draw(kind, 8, step=1, rows=ROWS)
    assert batch.patches.shape == (8, 1, 9, 12) and batch.logits.shape == (8, 1, 5)
    for i, (_, answer) in enumerate(rows_of(batch)):
        match = np.argwhere((cache.patches == batch.patches[i, 0].numpy().astype(np.float16)).all((2, 3)))
        [(picture, variant)] = match
        assert np.array_equal(cache.logits[picture, variant], batch.logits[i, 0].numpy())
        [name] = drawn.picture_names[picture]
        assert processor.tokenizer.decode(answer).lower().startswith(name.text)


def test_a_pseudo_photograph_is_of_the_class_that_it_names(sampler, processor, classifier):
    classes = [[Name(f"class {i}")] for i in range(5)]
    weight, bias = classifier
    found = []
    for step in range(6):
        batch = sampler(classes=classes).draw("photo_caption", 8, step, ROWS)
        torch.testing.assert_close(batch.logits[:, 0], batch.patches[:, 0].mean(1) @ weight.T + bias)
        named = [int(processor.tokenizer.decode(answer[:-1])[-1]) for _, answer in rows_of(batch)]
        found += [batch.logits[i, 0].softmax(-1)[c].item() for i, c in enumerate(named)]
    assert np.mean(found) > 0.4  # one in five, were they of other classes


def test_equal_names_have_equal_ids_and_captions(sampler, processor):
    batch = sampler().draw("caption", 10, 0, ROWS)
    texts = [processor.tokenizer.decode(caption[caption >= 0]) for caption in batch.captions]
    assert sorted(texts) == sorted(" " + options[0].text for options in sampler().picture_names)
    for i in range(10):
        for j in range(10):
            assert (texts[i] == texts[j]) == (batch.names[i] == batch.names[j]).item()
    assert len(batch.names.unique()) == 9  # two of the pictures show a cat


def same(first, second):
    return all(torch.equal(value, getattr(second, key)) for key, value in vars(first).items())


@pytest.mark.parametrize("kind", KINDS)
def test_seed_step_process_and_kind_decide_a_batch(sampler, kind):
    drawn = sampler(patch_dropout=0.5)
    first = drawn.draw(kind, 6, step=4, rows=ROWS, process=1)
    drawn.draw(kind, 6, step=5, rows=ROWS)
    torch.manual_seed(99)
    np.random.seed(99)
    assert same(first, drawn.draw(kind, 6, step=4, rows=ROWS, process=1))
    assert same(first, sampler(patch_dropout=0.5).draw(kind, 6, step=4, rows=ROWS, process=1))
    others = [
        drawn.draw(kind, 6, 5, ROWS, 1),
        drawn.draw(kind, 6, 4, ROWS, 0),
        sampler(seed=1).draw(kind, 6, 4, ROWS, 1),
    ]
    assert not any(torch.equal(first.patches, other.patches) for other in others)


def test_only_the_rows_given_are_drawn(sampler, processor, cache):
    drawn = sampler()
    for step in range(10):
        batch = drawn.draw("caption", 5, step, np.array([3, 7]))  # more than there are: some come twice
        for patches in batch.patches[:, 0].numpy().astype(np.float16):
            assert {int(p) for p, _ in np.argwhere((cache.patches == patches).all((2, 3)))} <= {3, 7}
    batch = drawn.draw("caption", 10, 0, ROWS)
    assert (
        len({patches.numpy().tobytes() for patches in batch.patches[:, 0, 0, :4]}) == 10
    )  # none twice if there are enough


def test_a_class_without_a_name_is_never_drawn(processor, cache, classifier, sampler):
    classes = [[], [Name("a barn")], [], [], [Name("a harp"), Name("a thing")]]
    drawn = sampler(classes=classes)
    assert drawn.classes.tolist() == [1, 4]
    texts = {
        processor.tokenizer.decode(answer[:-1])
        for step in range(20)
        for _, answer in rows_of(drawn.draw("photo_caption", 4, step, ROWS))
    }
    assert texts == {"a barn", "a harp", "a thing"}


def test_names_are_picked_by_their_shares():
    rng = np.random.default_rng(0)
    drawn = [pick([Name("one"), Name("other", 0.6)], rng) for _ in range(4000)]
    assert drawn.count("one") / 4000 == pytest.approx(1 / 1.6, abs=0.03)
    assert pick([Name("alone", 0.1)], rng) == "alone"


def test_dropped_patches_leave_the_logits(sampler, cache):
    drawn, plain = sampler(patch_dropout=0.25), sampler()
    mean = cache.statistics(np.random.default_rng(0))[0]
    blind = []
    for step in range(60):
        batch, whole = (s.draw("photo_caption", 8, step, ROWS) for s in (drawn, plain))
        gone = (batch.patches[:, 0] == mean).flatten(1).all(1)
        assert torch.equal(batch.patches[~gone], whole.patches[~gone])
        assert torch.equal(batch.logits, whole.logits)
        assert torch.equal(batch.input_ids, whole.input_ids)
        blind += gone.tolist()
    assert np.mean(blind) == pytest.approx(0.25, abs=0.06)


def test_pictures_keep_their_patches(sampler):
    batch, whole = (sampler(patch_dropout=share).draw("caption", 8, 0, ROWS) for share in (1.0, 0.0))
    assert torch.equal(batch.patches, whole.patches)


def test_a_template_with_a_system_prompt_puts_it_in_the_prefix(assembled, cache, classifier):
    processor = assembled()[1]
    system = "<|im_start|>system\nBe kind.<|im_end|>\n"
    assert processor.chat_template.count("{% for message in messages %}") == 1
    template = processor.chat_template.replace(
        "{% for message in messages %}", system + "{% for message in messages %}"
    )
    processor.chat_template = processor.tokenizer.chat_template = template
    drawn = Sampler(processor, cache, [[Name("a cat")]] * 10, [[Name("a dog")]] * 5, classifier, 0)
    batch = drawn.draw("chat", 2, 0, ROWS)
    assert processor.tokenizer.decode(batch.prefix) == system + "<|im_start|>user\n"
    assert processor.tokenizer.decode(rows_of(batch)[0][1]) == "A cat.<|im_end|>"


def test_a_batch_moves_as_a_whole(sampler):
    moved = sampler().draw("chat", 2, 0, ROWS).to(torch.device("meta"))
    assert {value.device.type for value in vars(moved).values()} == {"meta"}
