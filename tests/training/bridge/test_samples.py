import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.bridge.lessons import LESSON_KINDS, draw_lesson
from training.bridge.samples import Row, Sampler, of_similar_length, padded_length, show_pictures

WIDTH = 12  # channels of the tiny tower's last map; those of an earlier one stand after them
PLAIN = [(kind, "plain") for kind in LESSON_KINDS]
CHAT = [(kind, "chat") for kind in LESSON_KINDS]
SAME = {"kind": "naming", "form": "chat", "size": 6, "step": 4, "process": 1}


@pytest.fixture
def draw(sampler, pools):
    """Draw a batch, and the lessons that it holds."""

    def drawn(kind, form="chat", size=6, step=0, process=0, seed=0, patch_dropout=0.0):
        batch = sampler(seed, patch_dropout).draw(kind, form, size, pools[0], step, process)
        rng = np.random.default_rng([seed, step, process, LESSON_KINDS.index(kind)])
        return batch, [draw_lesson(kind, pools[0], rng) for _ in range(size)]

    return drawn


def rows_of(batch, processor):
    """Token ids and labels of every row, without padding."""
    rows = zip(batch.input_ids.tolist(), batch.labels.tolist(), strict=True)
    for ids, labels in rows:
        end = len(labels) - next(i for i, label in enumerate(reversed(labels)) if label != -100)
        assert set(ids[end:]) <= {processor.tokenizer.pad_token_id}
        yield ids[:end], labels[:end]


def learned(ids, labels):
    """The runs of tokens to be learned; a label is always the token itself."""
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
    runs, before = [], -100
    for label in labels:
        if label != -100:
            runs = [*runs, []] if before == -100 else runs
            runs[-1].append(label)
        before = label
    return runs


def parts(number, text, picture):
    return [*({"type": "image", "image": picture("red")} for _ in range(number)), {"type": "text", "text": text}]


@pytest.mark.parametrize(("kind", "form"), CHAT)
def test_a_chat_is_what_the_processor_makes_of_the_same_dialogue(draw, processor, picture, kind, form):
    batch, lessons = draw(kind, form)
    for (ids, labels), lesson in zip(rows_of(batch, processor), lessons, strict=True):
        messages = []
        for turn in lesson:
            messages.append({"role": "user", "content": parts(len(turn.shown), turn.question, picture)})
            messages.append({"role": "assistant", "content": parts(0, turn.answer, picture)})
        whole = list(processor.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"][0])
        row = [*batch.prefix.tolist(), *ids]
        assert whole[: len(row)] == row
        assert processor.tokenizer.decode(whole[len(row) :]) == "\n"  # what follows the end of a turn is not taught
        said = [processor.tokenizer.decode(run) for run in learned(ids, labels)]
        assert said == [turn.answer + "<|im_end|>" for turn in lesson if turn.learn]


@pytest.mark.parametrize(("kind", "form"), PLAIN)
def test_plain_text_is_pictures_questions_and_answers(draw, processor, kind, form):
    batch, lessons = draw(kind, form)
    assert len(batch.prefix) == 0
    asks = kind not in ("naming", "photo_naming", "binding", "family")  # what the answers depend on is always asked
    for (ids, labels), lesson in zip(rows_of(batch, processor), lessons, strict=True):
        text = "".join(
            show_pictures(len(turn.shown)) + (f"{turn.question} " if asks else "") + turn.answer + "<|endofchunk|>"
            for turn in lesson
        )
        assert processor.tokenizer.decode(ids) == text
        assert ids.count(processor.image_token_id) == sum(len(turn.shown) for turn in lesson)
        said = [processor.tokenizer.decode(run).lstrip() for run in learned(ids, labels)]
        assert said == [turn.answer + "<|endofchunk|>" for turn in lesson if turn.learn]


@pytest.mark.parametrize(("kind", "form"), [*PLAIN, *CHAT])
def test_answers_are_counted(draw, kind, form):
    batch, lessons = draw(kind, form)
    assert batch.answers.tolist() == [sum(turn.learn for turn in lesson) for lesson in lessons]
    assert batch.kinds.tolist() == [LESSON_KINDS.index(kind)] * len(lessons)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_pictures_are_shown_as_the_processor_shows_them(processor, picture, number):
    message = {"role": "user", "content": parts(number, "Who?", picture)}
    assert f"\n{show_pictures(number)}Who?" in processor.apply_chat_template([message])
    assert show_pictures(0) == ""


def index_of(cache, patches):
    """(picture, version) of the features of one picture, [P, Dv]."""
    [found] = np.argwhere((cache.patches == patches.numpy().astype(np.float16)).all((2, 3)))
    return tuple(int(i) for i in found)


@pytest.mark.parametrize("kind", LESSON_KINDS)
def test_pictures_come_in_reading_order(draw, cache, scene_cache, classifier, kind):
    batch, lessons = draw(kind)
    shown = [picture for lesson in lessons for turn in lesson for picture in turn.shown]
    assert batch.patches.shape == (len(shown), 1, 9, 20) and batch.logits.shape == (len(shown), 1, 19)
    assert (batch.patches.dtype, batch.logits.dtype) == (torch.float16, torch.float32)
    weight, bias = classifier
    shares = []
    for one, patches, logits in zip(shown, batch.patches[:, 0], batch.logits[:, 0], strict=True):
        if one.source == "photo":
            said = patches[:, :WIDTH].float().mean(0) @ weight.T + bias
            torch.testing.assert_close(logits, said, atol=0.02, rtol=0)  # the patches were rounded after that
            shares.append(logits.softmax(-1)[one.row].item())
            continue
        kept = scene_cache if one.source == "scene" else cache
        row, version = index_of(kept, patches)
        assert row == one.row
        assert np.array_equal(kept.logits[row, version], logits.numpy())
    assert not shares or np.mean(shares) > 0.4  # one in nineteen, were they of other classes


def test_all_versions_of_a_picture_are_seen(draw, cache):
    found = {index_of(cache, patches)[1] for step in range(5) for patches in draw("naming", step=step)[0].patches[:, 0]}
    assert found == {0, 1, 2}


def test_a_pseudo_photograph_is_of_its_class(draw):
    shares = []
    for step in range(6):
        batch, lessons = draw("photo_naming", size=8, step=step)
        classes = [lesson[0].shown[0].row for lesson in lessons]
        shares += batch.logits[:, 0].softmax(-1)[torch.arange(8), classes].tolist()
    assert np.mean(shares) > 0.5  # one in nineteen, were they of other classes


def test_channels_beside_the_classifiers_are_a_drawings_or_say_nothing(draw, cache, pools):
    mean = cache.statistics(np.random.default_rng(0))[0].half()
    of_drawings = cache.patches[pools[0].pictures][..., WIDTH:]
    silent, pushed = [], 0
    for step in range(30):
        batch, _ = draw("photo_naming", size=8, step=step)
        for patches in batch.patches[:, 0]:
            extra = patches[:, WIDTH:]
            silent.append(bool((extra == mean[WIDTH:]).all()))
            if not silent[-1]:
                [(picture, version)] = np.argwhere((of_drawings == extra.numpy().astype(np.float16)).all((2, 3)))
                last = cache.patches[pools[0].pictures[picture], version, :, :WIDTH].astype(np.float32)
                pushed += not np.array_equal(last, patches[:, :WIDTH].numpy())
    assert np.mean(silent) == pytest.approx(0.5, abs=0.1)
    assert pushed == len(silent) - sum(silent)


def test_a_tower_without_earlier_layers_needs_none(processor, cache, scene_cache, classifier, pools):
    narrow = [type(c)(c.patches[..., :WIDTH], c.logits) for c in (cache, scene_cache)]
    mean = narrow[0].statistics(np.random.default_rng(0))[0]
    sampler = Sampler(processor, *narrow, mean, classifier, 0, patch_dropout=0.5)
    batch = sampler.draw("photo_naming", "chat", 8, pools[0], 0)
    assert batch.patches.shape == (8, 1, 9, WIDTH)


def test_dropped_patches_leave_the_logits(draw, cache):
    mean = cache.statistics(np.random.default_rng(0))[0].half()
    blind = []
    for step in range(60):
        (batch, _), (whole, _) = (draw("photo_naming", size=8, step=step, patch_dropout=share) for share in (0.25, 0.0))
        gone = (batch.patches[:, 0] == mean).flatten(1).all(1)
        assert torch.equal(batch.patches[~gone], whole.patches[~gone])
        assert torch.equal(batch.logits, whole.logits) and torch.equal(batch.input_ids, whole.input_ids)
        blind += gone.tolist()
    assert np.mean(blind) == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("kind", ["naming", "scene"])
def test_drawings_and_scenes_keep_their_patches(draw, kind):
    batch, whole = (draw(kind, patch_dropout=share)[0] for share in (1.0, 0.0))
    assert torch.equal(batch.patches, whole.patches)


@pytest.mark.parametrize("kind", ["naming", "binding", "ordinal", "scene"])
def test_equal_names_have_equal_ids_and_captions(draw, processor, kind):
    batch, lessons = draw(kind, size=8)
    shown = [picture.name for lesson in lessons for turn in lesson for picture in turn.shown]
    texts = [processor.tokenizer.decode(caption[caption >= 0]) for caption in batch.captions]
    assert texts == [f" {name}" if name else "" for name in shown]
    assert [number == -1 for number in batch.names.tolist()] == [not name for name in shown]
    for i, name in enumerate(shown):
        for j, other in enumerate(shown):
            assert not name or (name == other) == (batch.names[i] == batch.names[j]).item()
    assert kind == "scene" or 1 < len(set(shown)) < len(shown)


def same(first, second):
    return all(torch.equal(value, getattr(second, key)) for key, value in vars(first).items())


@pytest.mark.parametrize(("kind", "form"), [*CHAT, ("photo_naming", "plain")])
def test_seed_step_process_and_kind_decide_a_batch(draw, kind, form):
    how = {**SAME, "kind": kind, "form": form, "patch_dropout": 0.5}
    first = draw(**how)[0]
    torch.manual_seed(99)
    np.random.seed(99)
    assert same(first, draw(**how)[0])
    others = [draw(**{**how, **change})[0] for change in ({"step": 5}, {"process": 0}, {"seed": 1})]
    assert not any(torch.equal(first.patches, other.patches) for other in others)


STEP = {"naming": 3, "scene": 2, "binding": 2, "ordinal": 2}


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_a_step_has_the_lessons_of_every_kind(sampler, pools, processor, draw, form):
    batches = sampler().draw_step(STEP, form, pools[0], step=4, process=1)
    drawn = [
        (LESSON_KINDS[kind], *row)
        for batch in batches
        for kind, row in zip(batch.kinds.tolist(), rows_of(batch, processor), strict=True)
    ]
    wanted = [
        (kind, *row)
        for kind, size in STEP.items()
        for row in rows_of(draw(kind, form, size, step=4, process=1)[0], processor)
    ]
    assert sorted(drawn) == sorted(wanted)
    assert all(torch.equal(batch.prefix, batches[0].prefix) for batch in batches)
    lengths = [batch.input_ids.shape[1] for batch in batches]
    assert lengths == sorted(lengths) and len(batches) < sum(STEP.values())


def test_pictures_of_a_step_stand_in_the_order_of_its_rows(sampler, pools, processor, cache):
    for batch in sampler().draw_step({"naming": 4, "format": 3, "check": 3}, "chat", pools[0], step=4):
        counts = [ids.count(processor.image_token_id) for ids in batch.input_ids.tolist()]
        assert sum(counts) == len(batch.patches) == len(batch.names) == len(batch.captions)
        names = [processor.tokenizer.decode(caption[caption >= 0]).strip() for caption in batch.captions]
        for i, (patches, name) in enumerate(zip(batch.patches[:, 0], names, strict=True)):
            found = np.argwhere((cache.patches == patches.numpy()).all((2, 3)))
            assert not len(found) or pools[0].names[found[0][0]][0] == name
            assert [name == other for other in names] == (batch.names == batch.names[i]).tolist()
        for kind, ids in zip(batch.kinds.tolist(), batch.input_ids.tolist(), strict=True):
            number = ids.count(processor.image_token_id)
            some, names = names[:number], names[number:]
            said = processor.tokenizer.decode(ids).lower()
            assert LESSON_KINDS[kind] == "format" or some[0].lower() in said


def test_a_step_depends_on_seed_step_and_process_alone(sampler, pools):
    def drawn(seed=0, step=2, process=1):
        batches = sampler(seed, patch_dropout=0.5).draw_step(STEP, "plain", pools[0], step, process)
        return torch.cat([value.flatten().float() for batch in batches for value in vars(batch).values()])

    first = drawn()
    torch.manual_seed(99)
    assert torch.equal(first, drawn())
    assert not any(torch.equal(first, other) for other in (drawn(1), drawn(step=3), drawn(process=0)))


def test_a_step_without_lessons_has_no_batch(sampler, pools):
    assert sampler().draw_step({}, "chat", pools[0], step=0) == []


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60))
def test_batches_are_of_rows_of_similar_length_and_always_as_large(lengths):
    def batched(lengths):
        batches = of_similar_length([Row("naming", [0] * length, [], []) for length in lengths])
        return [[len(row.ids) for row in batch] for batch in batches]

    batches = batched(lengths)
    assert [length for batch in batches for length in batch] == sorted(lengths)
    assert [len(batch) for batch in batches] == [len(batch) for batch in batched([1] * len(lengths))]
    assert all(batches)


@given(st.integers(1, 1000))
def test_rows_are_padded_by_little_to_few_lengths(length):
    padded = padded_length(length)
    assert length <= padded < length + max(4, min(16, length / 4))
    assert padded_length(padded) == padded


def test_few_lengths_occur(draw):
    assert len({padded_length(length) for length in range(1, 257)}) <= 32
    for form in ("plain", "chat"):
        length = draw("rule", form)[0].input_ids.shape[1]
        assert padded_length(length) == length


def test_a_look_is_at_drawings_photographs_and_scenes(sampler, pools, cache, scene_cache, processor):
    look = sampler(patch_dropout=0.5).draw_look(5, pools[0], step=2)
    assert look.patches.shape == (10, 1, 9, 20) and look.logits.shape == (10, 1, 19)
    assert (look.patches.dtype, look.logits.dtype) == (torch.float16, torch.float32)
    assert len(look.names) == len(look.captions) == len(look.truth.number) == 5
    texts = [processor.tokenizer.decode(caption[caption >= 0]).strip() for caption in look.captions]
    rows = [index_of(cache, patches)[0] for patches in look.patches[:5:2, 0]]
    assert set(rows) <= set(pools[0].pictures.tolist())
    assert texts[::2] == [pools[0].names[row][0] for row in rows]
    of_classes = {name for names in pools[0].class_names for name in names}
    assert set(texts[1::2]) <= of_classes
    scenes = [index_of(scene_cache, patches)[0] for patches in look.patches[5:, 0]]
    assert set(scenes) <= set(pools[0].scenes.tolist())
    for got, wanted in zip(vars(look.truth).values(), vars(pools[0].truth[torch.tensor(scenes)]).values(), strict=True):
        assert torch.equal(got.nan_to_num(-1), wanted.nan_to_num(-1))
    for i, name in enumerate(texts):
        assert [name == other for other in texts] == (look.names == look.names[i]).tolist()


def test_a_look_depends_on_seed_step_and_process_alone(sampler, pools):
    def looked(seed=0, step=2, process=1):
        look = sampler(seed, patch_dropout=0.5).draw_look(3, pools[0], step, process)
        return torch.cat([look.patches.flatten(), look.truth.present.flatten(), look.captions.flatten().float()])

    first = looked()
    torch.manual_seed(99)
    assert torch.equal(first, looked())
    assert not any(torch.equal(first, other) for other in (looked(1), looked(step=3), looked(process=0)))


def test_a_sampler_keeps_nothing_between_batches(sampler, pools):
    drawn = sampler(patch_dropout=0.5)
    first = drawn.draw("photo_naming", "chat", 6, pools[0], 4)
    drawn.draw("naming", "chat", 6, pools[0], 5)
    assert same(first, drawn.draw("photo_naming", "chat", 6, pools[0], 4))


def test_the_form_changes_how_a_lesson_is_written_and_not_what_it_is(draw):
    plain, chat = (draw("binding", form)[0] for form in ("plain", "chat"))
    assert torch.equal(plain.patches, chat.patches) and torch.equal(plain.names, chat.names)
    assert torch.equal(plain.answers, chat.answers)
    assert 2 * plain.input_ids.shape[1] < chat.input_ids.shape[1]


def test_a_template_with_a_system_prompt_puts_it_in_the_prefix(
    assembled, cache, scene_cache, classifier, pools, picture
):
    processor = assembled()[1]
    system = "<|im_start|>system\nBe kind.<|im_end|>\n"
    assert processor.chat_template.count("{% for message in messages %}") == 1
    template = processor.chat_template.replace(
        "{% for message in messages %}", system + "{% for message in messages %}"
    )
    processor.chat_template = processor.tokenizer.chat_template = template
    batch = Sampler(processor, cache, scene_cache, torch.zeros(1), classifier, 0).draw("naming", "chat", 2, pools[0], 0)
    assert processor.tokenizer.decode(batch.prefix) == system + "<|im_start|>user\n"
    ids, labels = next(rows_of(batch, processor))
    assert processor.tokenizer.decode(ids).count("<|im_end|>") == 2
    assert processor.tokenizer.decode(learned(ids, labels)[0]).endswith(".<|im_end|>")


def test_a_batch_moves_as_a_whole(draw):
    moved = draw("ordinal")[0].to(torch.device("meta"))
    assert {value.device.type for value in vars(moved).values()} == {"meta"}


def test_a_look_moves_as_a_whole(sampler, pools):
    moved = sampler().draw_look(2, pools[0], 0).to(torch.device("meta"))
    tensors = {**vars(moved), **vars(moved.truth)}
    del tensors["truth"]
    assert {value.device.type for value in tensors.values()} == {"meta"}
