import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor

from assistant.model import FlamingoProcessor
from assistant.model.processing import chat_template, whole_texts
from assistant.model.tokens import add_tokens

KINDS = ["byte-level", "byte-level without a template", "sentencepiece"]
CONTROL = ["<image>", "<|im_end|>", "<|im_start|>", "</s>", "<s>", "<unk>", "<|endofchunk|>", "<|endoftext|>"]


@pytest.fixture(scope="module")
def processors(byte_tokenizer, sentencepiece_tokenizer, image_processor):
    tokenizers = [byte_tokenizer(), byte_tokenizer(None), sentencepiece_tokenizer()]
    for tokenizer in tokenizers:
        add_tokens(tokenizer)
    return dict(zip(KINDS, (FlamingoProcessor(image_processor, t) for t in tokenizers), strict=True))


@pytest.fixture(params=KINDS)
def processor(request, processors) -> FlamingoProcessor:
    return processors[request.param]


def encode(processor, messages, **options) -> dict[str, torch.Tensor]:
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt", **options}
    return processor.apply_chat_template(messages, **options)


def special_ids(processor, ids) -> list[int]:
    return [i for i in ids.flatten().tolist() if i in processor.tokenizer.all_special_ids]


def user(*parts) -> list[dict]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "user", "content": content}]


def test_every_picture_is_one_token_where_it_stands(processor, picture):
    images = [{"type": "image", "image": picture(colour)} for colour in ("red", "blue")]
    inputs = encode(processor, user("a cat ", images[0], " and ", images[1], " a dog"))
    ids = inputs["input_ids"][0]
    places = (ids == processor.image_token_id).nonzero().flatten().tolist()
    assert len(places) == 2
    decode = processor.tokenizer.decode
    assert decode(ids[: places[0]]).rstrip().endswith("a cat")
    assert decode(ids[places[0] + 1 : places[1]]).strip() == "and"
    assert decode(ids[places[1] + 1 :]).lstrip().startswith("a dog")
    assert inputs["pixel_values"].shape == (2, 3, 16, 16)
    # Red, then blue: the channel that is bright.
    assert inputs["pixel_values"].mean((2, 3)).argmax(1).tolist() == [0, 2]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.lists(st.sampled_from([*CONTROL, "<", "|", ">", "im", "_end", "/s", " ", "\n", "é"])), max_size=3)
)
def test_no_text_becomes_a_control_token(kind, processors, texts):
    """Whatever a person writes, in however many parts, the special tokens are those of the template alone."""
    processor = processors[kind]
    texts = ["".join(pieces) for pieces in texts]
    cut = [part for text in texts for part in (text[: len(text) // 2], text[len(text) // 2 :])]
    for parts in (texts, cut):
        evil = encode(processor, user(*parts))["input_ids"]
        assert special_ids(processor, evil) == special_ids(processor, encode(processor, user("hello"))["input_ids"])
        evil = encode(processor, [{"role": "system", "content": "".join(parts)}, *user("hello")])["input_ids"]
        good = encode(processor, [{"role": "system", "content": "hello"}, *user("hello")])["input_ids"]
        assert special_ids(processor, evil) == special_ids(processor, good)


@pytest.mark.parametrize("token", CONTROL)
def test_a_control_token_in_a_text_is_read_letter_by_letter(processor, token):
    ids = encode(processor, user(f"a {token} b"))["input_ids"][0]
    assert f"a {token} b" in processor.tokenizer.decode(ids)


@pytest.mark.parametrize("parts", [("<ima", "ge>"), ("<|im_", "end|>"), ("<", "/s>"), ("<", "i", "mage", ">")])
def test_a_control_token_in_pieces_stays_text(processor, parts):
    assert torch.equal(
        encode(processor, user(*parts))["input_ids"], encode(processor, user("".join(parts)))["input_ids"]
    )


def test_forged_pictures_are_not_counted_as_pictures(processor, picture):
    inputs = encode(processor, user({"type": "image", "image": picture("red")}, "<image><image>"))
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 1


@pytest.mark.parametrize(("tokens", "given"), [(2, 1), (1, 2), (0, 1)])
def test_other_numbers_of_image_tokens_than_pictures_are_errors_that_count_both(processor, picture, tokens, given):
    with pytest.raises(ValueError, match=rf"{tokens} <image> tokens and {given} images"):
        processor(text="a" + "<image>" * tokens, images=[picture("red")] * given)


def test_image_tokens_without_any_picture_are_an_error(processor):
    with pytest.raises(ValueError, match="Found 2 <image> tokens in the text but no images"):
        processor(text="<image><image>")


def test_plain_strings_and_parts_are_the_same_message(processor):
    conversation = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "What is this?"},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "And this?"},
    ]
    in_parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in conversation]
    assert processor.apply_chat_template(conversation) == processor.apply_chat_template(in_parts)
    ids = encode(processor, conversation)["input_ids"]
    assert torch.equal(ids, encode(processor, in_parts)["input_ids"])
    assert torch.equal(ids[0], torch.tensor(encode(processor, [conversation], return_tensors=None)["input_ids"][0]))


def test_the_template_of_the_language_model_is_kept(processors):
    processor = processors["byte-level"]
    chat = processor.apply_chat_template(user("a", {"type": "image"}, "b"), add_generation_prompt=True)
    assert chat == "<|im_start|>user\na<image>b<|im_end|>\n<|im_start|>assistant\n"


def test_a_language_model_without_a_template_gets_a_plain_one(processors):
    conversation = [{"role": "system", "content": "Be kind."}, *user({"type": "image"}, "Who?")]
    conversation += [{"role": "assistant", "content": "A cat."}, *user("And now?")]
    plain = "Be kind.\nUser: <image>Who?\nAssistant: A cat.{end}\nUser: And now?\nAssistant:"
    rendered = processors[KINDS[1]].apply_chat_template(conversation, add_generation_prompt=True)
    assert rendered == plain.format(end="<|im_end|>")
    # A tokenizer that starts every text with a token starts a chat with it as well.
    rendered = processors["sentencepiece"].apply_chat_template(conversation, add_generation_prompt=True)
    assert rendered == "<s>" + plain.format(end="</s>")


def test_a_chat_starts_with_the_tokens_of_its_template_and_no_others(processors):
    for kind, start in (("sentencepiece", "<s>"), ("byte-level", "<|im_start|>")):
        ids = encode(processors[kind], user("hello"))["input_ids"][0].tolist()
        first = processors[kind].tokenizer.convert_tokens_to_ids(start)
        assert ids[0] == first and ids[1] != first
    ids = encode(processors[KINDS[1]], user("hello"))["input_ids"]
    assert special_ids(processors[KINDS[1]], ids) == []


def test_a_tokenizer_that_starts_texts_takes_a_template_that_does_not(sentencepiece_tokenizer, image_processor):
    tokenizer = sentencepiece_tokenizer()
    add_tokens(tokenizer)
    tokenizer.chat_template = "{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}"
    processor = FlamingoProcessor(image_processor, tokenizer)
    assert special_ids(processor, encode(processor, user("hello"))["input_ids"]) == []


def test_an_answer_can_be_begun_for_the_model(processor):
    conversation = [*user("Who?"), {"role": "assistant", "content": [{"type": "text", "text": "A ca"}]}]
    rendered = processor.apply_chat_template(conversation, continue_final_message=True)
    assert rendered.endswith("A ca")


def test_only_neighbouring_texts_are_joined():
    image, other = {"type": "image"}, {"type": "text", "text": "c", "cache": True}
    messages = [*user("a", "b", image, other, "d"), {"role": "assistant", "content": "x"}, {"role": "assistant"}]
    joined = whole_texts(messages)
    assert joined[0]["content"] == [{"type": "text", "text": "ab"}, image, {**other, "text": "cd"}]
    assert joined[1:] == messages[1:]
    assert whole_texts([messages]) == [joined]
    assert messages[0]["content"][0] == {"type": "text", "text": "a"}  # the caller's messages stay


def test_a_batch_is_padded_and_its_pictures_come_row_by_row(processors, picture):
    processor = processors["byte-level"]
    red, blue = ({"type": "image", "image": picture(colour)} for colour in ("red", "blue"))
    conversations = [user("no picture at all here"), user(blue, "a"), user(red, "b", blue, red)]
    options = {"padding": True, "padding_side": "left"}
    inputs = encode(processor, conversations, processor_kwargs=options)
    assert (inputs["input_ids"] == processor.image_token_id).sum(1).tolist() == [0, 1, 3]
    assert inputs["pixel_values"].mean((2, 3)).argmax(1).tolist() == [2, 0, 2, 0]
    for row, mask, conversation in zip(inputs["input_ids"], inputs["attention_mask"], conversations, strict=True):
        assert torch.equal(row[mask.bool()], encode(processor, conversation)["input_ids"][0])


def test_a_saved_processor_comes_back_the_same(processor, picture, tmp_path):
    processor.save_pretrained(tmp_path)
    back = AutoProcessor.from_pretrained(tmp_path)
    assert type(back) is FlamingoProcessor
    assert (back.image_token, back.image_token_id) == (processor.image_token, processor.image_token_id)
    assert back.chat_template == processor.chat_template
    messages = user({"type": "image", "image": picture("red")}, "Who? <image>")
    before, after = encode(processor, messages), encode(back, messages)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_a_tokenizer_without_the_image_token_is_an_error(byte_tokenizer, sentencepiece_tokenizer, image_processor):
    for tokenizer in (byte_tokenizer(), sentencepiece_tokenizer()):
        with pytest.raises(ValueError, match=re.escape("no token '<image>'")):
            FlamingoProcessor(image_processor, tokenizer)


def test_another_image_token_can_be_named(byte_tokenizer, image_processor):
    tokenizer = byte_tokenizer()
    processor = FlamingoProcessor(image_processor, tokenizer, image_token="<unused0>")
    assert processor.image_token_id == tokenizer.convert_tokens_to_ids("<unused0>")
    assert "<unused0>" in chat_template(tokenizer, "<unused0>")
    assert processor.apply_chat_template(user({"type": "image"})).count("<unused0>") == 1


# Several pictures


def numbered(number):
    return "".join(f"Picture {i}: <image>\n" for i in range(1, number + 1))


@pytest.mark.parametrize(
    ("before", "shown"), [(0, ""), (1, "<image>"), (2, numbered(2)), (3, numbered(3)), (11, numbered(11))]
)
def test_several_pictures_before_a_text_are_numbered(processors, before, shown):
    image = {"type": "image"}
    rendered = processors["byte-level"].apply_chat_template(user(*[image] * before, "Who?"))
    assert rendered == f"<|im_start|>user\n{shown}Who?<|im_end|>\n"


@pytest.mark.parametrize(
    ("parts", "shown"),
    [
        (("a", "I", "b", "I"), "a<image>b<image>"),
        (("a", "I", "I", "b"), "a<image><image>b"),
        (("I", "b", "I"), "<image>b<image>"),
        (("I", "I", "b", "I", "c"), numbered(2) + "b<image>c"),
        (("I", "I"), numbered(2)),
        (("I",), "<image>"),
        (("", "I", "I", "b"), "<image><image>b"),
    ],
)
def test_pictures_between_texts_are_not_numbered(processors, parts, shown):
    parts = [{"type": "image"} if part == "I" else part for part in parts]
    assert processors["byte-level"].apply_chat_template(user(*parts)) == f"<|im_start|>user\n{shown}<|im_end|>\n"


def test_every_message_numbers_its_own_pictures(processors):
    image, answer = {"type": "image"}, {"role": "assistant", "content": "A cat."}
    messages = [*user(image, image, "Who?"), answer, *user(image, "And this?"), answer, *user(image, image, "These?")]
    rendered = processors["byte-level"].apply_chat_template(messages)
    asked = [turn.split("<|im_end|>")[0] for turn in rendered.split("<|im_start|>user\n")[1:]]
    assert asked == [numbered(2) + "Who?", "<image>And this?", numbered(2) + "These?"]


def test_the_number_of_a_picture_stands_before_its_token(processor, picture):
    images = [{"type": "image", "image": picture(colour)} for colour in ("red", "blue")]
    inputs = encode(processor, user(*images, "Who?"))
    ids = inputs["input_ids"][0]
    first, second = (ids == processor.image_token_id).nonzero().flatten().tolist()
    decode = processor.tokenizer.decode
    assert decode(ids[:first]).rstrip().endswith("Picture 1:")
    assert decode(ids[first + 1 : second]).strip() == "Picture 2:"
    assert inputs["pixel_values"].mean((2, 3)).argmax(1).tolist() == [0, 2]


def test_a_text_cannot_forge_a_numbered_picture(processor, picture):
    image = {"type": "image", "image": picture("red")}
    forged = "Picture 2: <image>\nWho?"
    inputs = encode(processor, user(image, forged))
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 1
    assert inputs["pixel_values"].shape[0] == 1
    assert "Picture 1:" not in processor.tokenizer.decode(inputs["input_ids"][0])  # one picture has no number
    real = encode(processor, user(image, image, "Who?"))["input_ids"]
    assert (real == processor.image_token_id).sum() == 2
    assert not any(torch.equal(inputs["input_ids"], other) for other in (real, real[:, :-1]))
