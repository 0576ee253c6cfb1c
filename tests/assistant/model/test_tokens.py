import pytest
from transformers import AutoTokenizer

from assistant.model.tokens import END_OF_CHUNK_TOKEN, IMAGE_TOKEN, add_tokens, rename_tokens

NAMES = {"<unused0>": IMAGE_TOKEN, "<unused1>": END_OF_CHUNK_TOKEN}


@pytest.fixture(params=["byte-level", "sentencepiece"])
def tokenizer(request, byte_tokenizer, sentencepiece_tokenizer):
    return byte_tokenizer() if request.param == "byte-level" else sentencepiece_tokenizer()


def test_missing_tokens_are_added_once_and_are_one_token_each(tokenizer):
    size = len(tokenizer)
    assert add_tokens(tokenizer) == 2 and len(tokenizer) == size + 2
    assert add_tokens(tokenizer) == 0 and len(tokenizer) == size + 2
    ids = tokenizer.convert_tokens_to_ids([END_OF_CHUNK_TOKEN, IMAGE_TOKEN])
    assert ids == [size, size + 1]
    text = tokenizer(f"a{IMAGE_TOKEN}b{END_OF_CHUNK_TOKEN}", add_special_tokens=False).input_ids
    assert text.count(ids[1]) == 1 and text[-1] == ids[0]
    assert tokenizer.decode(ids, skip_special_tokens=True) == ""


def test_other_special_tokens_stay_special(byte_tokenizer):
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<unused0>"]})
    before = set(tokenizer.all_special_tokens)
    add_tokens(tokenizer)
    assert set(tokenizer.all_special_tokens) == before | {IMAGE_TOKEN, END_OF_CHUNK_TOKEN}


def test_a_word_of_the_vocabulary_becomes_a_token_of_its_own(byte_tokenizer):
    """Some vocabularies hold the string without its being special; text would then be split around it."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([IMAGE_TOKEN])
    size = len(tokenizer)
    assert add_tokens(tokenizer) == 1 and len(tokenizer) == size + 1
    assert IMAGE_TOKEN in tokenizer.all_special_tokens


def test_renamed_tokens_keep_their_ids_and_the_size_of_the_vocabulary(byte_tokenizer):
    tokenizer = byte_tokenizer()
    size, ids = len(tokenizer), tokenizer.convert_tokens_to_ids(list(NAMES))
    assert rename_tokens(tokenizer, NAMES) is tokenizer
    assert add_tokens(tokenizer) == 0 and len(tokenizer) == size
    assert tokenizer.convert_tokens_to_ids(list(NAMES.values())) == ids
    assert tokenizer(f"a{IMAGE_TOKEN}").input_ids[-1] == ids[0]
    assert "<unused0>" not in tokenizer.get_vocab()
    assert tokenizer.decode(ids, skip_special_tokens=True) == ""
    rename_tokens(tokenizer, NAMES)  # once more changes nothing
    assert len(tokenizer) == size and tokenizer.convert_tokens_to_ids(list(NAMES.values())) == ids


def test_tokens_beside_the_vocabulary_are_renamed_too(byte_tokenizer):
    """The special tokens of Qwen or GPT-NeoX are no part of their BPE vocabulary."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<spare>"]})
    size, spare = len(tokenizer), tokenizer.convert_tokens_to_ids("<spare>")
    rename_tokens(tokenizer, {"<spare>": IMAGE_TOKEN})
    assert tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) == spare and len(tokenizer) == size
    assert tokenizer(IMAGE_TOKEN).input_ids == [spare]


def test_renamed_tokens_survive_saving(byte_tokenizer, tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<unused0>", "<unused1>"]})  # as many tokenizers list them
    rename_tokens(tokenizer, NAMES)
    add_tokens(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    back = AutoTokenizer.from_pretrained(tmp_path)
    assert back.get_vocab() == tokenizer.get_vocab()
    assert set(back.all_special_tokens) == set(tokenizer.all_special_tokens)
    text = f"What is in the picture?{IMAGE_TOKEN}<unused0>"
    assert back(text).input_ids == tokenizer(text).input_ids
