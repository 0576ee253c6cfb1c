import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.decoding import Chooser, Writer
from assistant.options import Options

CPU = torch.device("cpu")

# Chooser


def probabilities(options: Options, ids: list[int], logits: np.ndarray, never: list[int]) -> np.ndarray:
    """The definition: how probable each next token is, from logits [V]."""
    scores = logits.astype(np.float64)
    scores[never] = -np.inf
    for token in set(ids):
        scores[token] *= options.repetition_penalty if scores[token] < 0 else 1 / options.repetition_penalty

    def softmax() -> np.ndarray:
        weights = np.exp(scores - scores.max())
        return weights / weights.sum()

    if options.temperature == 0:
        return np.eye(len(scores))[scores.argmax()]
    scores /= options.temperature
    if options.top_k:
        scores[scores < np.sort(scores)[::-1][: options.top_k].min()] = -np.inf
    most_probable_first = np.argsort(-scores)
    before = np.cumsum(softmax()[most_probable_first]) - softmax()[most_probable_first]
    scores[most_probable_first[before >= options.top_p]] = -np.inf
    scores[softmax() < options.min_p * softmax().max()] = -np.inf
    return softmax()


@st.composite
def choices(draw) -> tuple[Options, list[int], np.ndarray, list[int]]:
    """Options, tokens that were there, logits of 12 tokens, and tokens that are never chosen."""
    options = Options(
        temperature=draw(st.sampled_from([0, 0.3, 1, 2.5])),
        top_p=draw(st.sampled_from([1, 0.9, 0.5, 0.01])),
        top_k=draw(st.sampled_from([0, 1, 3, 50])),
        min_p=draw(st.sampled_from([0, 0.05, 0.5, 1])),
        repetition_penalty=draw(st.sampled_from([1, 1.3, 2, 0.5])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )
    tokens = st.lists(st.integers(0, 11), max_size=5)
    logits = np.random.default_rng(draw(st.integers(0, 999))).normal(scale=2, size=12).astype(np.float32)
    return options, draw(tokens), logits, draw(tokens)


@given(choices())
@settings(max_examples=60, deadline=None)
def test_tokens_are_chosen_as_often_as_the_definition_says(choice):
    options, before, logits, never = choice
    rows = 4000
    ids = torch.tensor([before] * rows, dtype=torch.long)
    chosen = Chooser(options, CPU, never)(ids, torch.from_numpy(logits).expand(rows, -1))
    expected = probabilities(options, before, logits, never)
    often = np.bincount(chosen.numpy(), minlength=12) / rows
    assert not often[expected == 0].any()
    np.testing.assert_allclose(often, expected, atol=0.05)


def test_rows_are_chosen_for_one_by_one():
    logits = torch.tensor([[0.0, 3, 1], [2, 0, 1]])
    assert Chooser(Options(), CPU)(torch.tensor([[0], [0]]), logits).tolist() == [1, 0]
    penalised = Chooser(Options(repetition_penalty=10), CPU)
    assert penalised(torch.tensor([[1], [2]]), logits).tolist() == [2, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_stay_as_they_are(dtype):
    logits = torch.randn(2, 8, dtype=dtype)
    before = logits.clone()
    Chooser(Options(temperature=1, top_k=2, repetition_penalty=2), CPU, [1, 2])(torch.ones(2, 3).long(), logits)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("temperature", [1e-300, 1e-9, 1e9, 1e300])
def test_no_temperature_breaks_the_arithmetic(temperature):
    logits = torch.tensor([[-80.0, 90, 89, 0]])
    chosen = Chooser(Options(temperature=temperature, seed=0), CPU, [3])(torch.zeros(1, 1).long(), logits)
    assert chosen.item() == 1 if temperature < 1 else chosen.item() in (0, 1, 2)


def sample(options: Options, steps: int = 20) -> list[int]:
    chooser, logits = Chooser(options, CPU), torch.zeros(1, 50)
    return [int(chooser(torch.zeros(1, 1).long(), logits)) for _ in range(steps)]


def test_the_same_seed_says_the_same_and_others_do_not():
    options = Options(temperature=1, seed=7)
    assert sample(options) == sample(options) != sample(replace(options, seed=8))
    assert len(set(sample(options))) > 1
    assert sample(replace(options, seed=None)) != sample(replace(options, seed=None))


@pytest.mark.parametrize("seed", [7, None])
def test_the_random_numbers_of_others_are_left_alone(seed):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = sample(Options(temperature=1, seed=3))
    sample(Options(temperature=1, seed=seed))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    assert sample(Options(temperature=1, seed=3)) == first


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_step_by_step_it_chooses_what_generate_chooses(make, penalty):
    model = copy.deepcopy(make().bare)
    model.generation_config.eos_token_id = None
    ids = torch.tensor([[1, 7, 8, 9], [1, 20, 30, 40]])
    expected = model.generate(input_ids=ids, max_new_tokens=10, do_sample=False, repetition_penalty=penalty)
    chooser = Chooser(Options(repetition_penalty=penalty), CPU)
    for _ in range(10):
        with torch.no_grad():
            ids = torch.cat((ids, chooser(ids, model(input_ids=ids).logits[:, -1])[:, None]), dim=1)
    assert torch.equal(ids, expected)


# Writer


def metaspace_tokenizer():
    """A tokenizer whose decoder drops the space before the first word."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = [
        "<unk>",
        "<s>",
        "</s>",
        "▁",
        "▁▁",
        "▁a",
        "▁cat",
        "cat",
        "s",
        "▁The",
        "▁<",
        "end",
        ">",
        "é",
        "▁😀",
        ".",
        "▁.",
    ]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def tokenizers(byte_tokenizer, sentencepiece_tokenizer):
    return {"bytes": byte_tokenizer(), "sentencepiece": sentencepiece_tokenizer(), "metaspace": metaspace_tokenizer()}


def write(tokenizer, ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], int]:
    """The pieces, the last of which is what was left at the end, and how many tokens were taken."""
    writer, pieces = Writer(tokenizer, stop), []
    for token in ids:
        pieces.append(writer.push(token))
        if writer.stopped:
            break
    taken = len(pieces)
    pieces.append(writer.end())
    assert writer.text == "".join(pieces)
    return pieces, taken


def cut(text: str, stop: tuple[str, ...]) -> str:
    return text[: min((at for word in stop if (at := text.find(word)) >= 0), default=len(text))]


def any_ids(tokenizer, data) -> list[int]:
    """Tokens of words, single tokens of all kinds, and runs of byte tokens, whole characters or not."""
    words = ["The cat", " a", "é", "😀", "€uro", "  ", "\n", "<end>", "�", "日本"]
    bytes_of = tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in (0xE2, 0x82, 0xAC, 0xC3, 0xA9, 0x41)])
    some = st.one_of(
        st.sampled_from(words).map(lambda word: tokenizer(word, add_special_tokens=False).input_ids),
        st.lists(st.integers(0, len(tokenizer)), max_size=3),  # the last one is in no vocabulary
        st.sampled_from(tokenizer.all_special_ids).map(lambda token: [token]),
        st.lists(st.sampled_from([token for token in bytes_of if token is not None] or [5]), max_size=4),
    )
    return [token for tokens in data.draw(st.lists(some, max_size=8)) for token in tokens]


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_pieces_joined_are_the_whole(tokenizers, data):
    tokenizer = tokenizers[data.draw(st.sampled_from(sorted(tokenizers)))]
    ids = any_ids(tokenizer, data)
    pieces, _ = write(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_pieces_joined_are_the_whole_before_the_first_stop_string(tokenizers, data):
    tokenizer = tokenizers[data.draw(st.sampled_from(sorted(tokenizers)))]
    ids = any_ids(tokenizer, data)
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    stops = st.one_of(
        st.sampled_from(["<end>", "cat", "é", "  ", "�", "nowhere", "cats", "at"]),
        st.tuples(st.integers(0, max(len(whole) - 1, 0)), st.integers(1, 4)).map(lambda at: whole[at[0] :][: at[1]]),
    )
    stop = tuple(word for word in data.draw(st.lists(stops, max_size=3)) if word)
    pieces, taken = write(tokenizer, ids, stop)
    assert "".join(pieces) == cut(tokenizer.decode(ids[:taken], skip_special_tokens=True), stop)
    if len(stop) == 1:
        assert "".join(pieces) == cut(whole, stop)
    assert not any(word in "".join(pieces) for word in stop)


@given(text=st.text(max_size=12), repeats=st.integers(1, 2))
@settings(max_examples=150, deadline=None)
def test_no_piece_holds_half_a_character(tokenizers, text, repeats):
    text = (text * repeats).replace("�", "")
    for name in ("bytes", "sentencepiece"):
        tokenizer = tokenizers[name]
        pieces, _ = write(tokenizer, tokenizer(text, add_special_tokens=False).input_ids)
        assert "�" not in "".join(pieces)


def test_words_come_out_at_once(tokenizers):
    for name in ("bytes", "sentencepiece"):
        ids = tokenizers[name]("The quick dog, a cat.", add_special_tokens=False).input_ids
        pieces, _ = write(tokenizers[name], ids, ("nowhere", "<end>"))
        assert all(pieces[1:-1]) and pieces[-1] == "", name  # the first may be a space that is left out
    ids = tokenizers["metaspace"].convert_tokens_to_ids(["▁The", "▁cat", "s", "."])
    assert write(tokenizers["metaspace"], ids)[0] == ["The", " cat", "s", ".", ""]


def test_characters_of_several_tokens_come_out_whole(tokenizers):
    ids = tokenizers["bytes"]("a😀b", add_special_tokens=False).input_ids
    assert write(tokenizers["bytes"], ids)[0] == ["a", "", "", "", "😀", "b", ""]


def test_a_bad_byte_makes_its_run_unreadable_as_it_does_at_once(tokenizers):
    tokenizer = tokenizers["sentencepiece"]
    euro = tokenizer.convert_tokens_to_ids(["<0xE2>", "<0x82>", "<0xAC>"])
    assert write(tokenizer, [*euro, tokenizer.bos_token_id, *euro])[0] == [""] * 7 + ["€€"]
    assert "".join(write(tokenizer, [*euro, euro[0]])[0]) == "�" * 4


def test_half_a_character_at_the_end_is_said_at_the_end(tokenizers):
    ids = tokenizers["bytes"]("a😀", add_special_tokens=False).input_ids[:-1]
    assert write(tokenizers["bytes"], ids)[0] == ["a", "", "", "", "�"]


def test_nothing_of_a_stop_string_is_said(tokenizers):
    def pieces(text: str, *stop: str) -> list[str]:
        ids = [token for c in text for token in tokenizers["bytes"](c, add_special_tokens=False).input_ids]
        return write(tokenizers["bytes"], ids, stop)[0]

    assert pieces("a<end>b", "<end>") == ["a", "", "", "", "", "", ""]
    assert pieces("a<en b", "<end>") == ["a", "", "", "", "<en ", "b", ""]
    assert pieces("a<en", "<end>") == ["a", "", "", "", "<en"]
    assert pieces("<<end>", "<end>") == ["", "<", "", "", "", "", ""]
    assert pieces("ababc", "abc") == ["", "", "ab", "", "", ""]
    assert pieces("abc", "abcd", "b") == ["", "a", ""]


def test_a_stop_string_in_what_was_left_ends_the_text_as_well(tokenizers):
    tokenizer = tokenizers["sentencepiece"]
    writer = Writer(tokenizer, ["é"])
    ids = tokenizer("a", add_special_tokens=False).input_ids + tokenizer.convert_tokens_to_ids(["<0xC3>", "<0xA9>"])
    assert "".join(writer.push(token) for token in ids) + writer.end() == "a"
    assert writer.stopped


def test_nothing_is_said_after_the_end(tokenizers):
    writer = Writer(tokenizers["bytes"], ["x"])
    ids = tokenizers["bytes"]("axb", add_special_tokens=False).input_ids
    assert [writer.push(token) for token in ids] == ["a", "", ""] and writer.stopped
    assert writer.end() == writer.end() == "" and writer.text == "a"
