"""Special tokens: an image token and an end-of-chunk token for any tokenizer."""

import json

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

IMAGE_TOKEN = "<image>"
END_OF_CHUNK_TOKEN = "<|endofchunk|>"


def rename_tokens(tokenizer: PreTrainedTokenizerBase, names: dict[str, str]) -> PreTrainedTokenizerBase:
    """Give unused special tokens new names, so that the vocabulary and the embeddings keep their size.

    Args:
        tokenizer: a tokenizer of the ``tokenizers`` library.
        names: old name to new name; names that are gone already are left out.

    Returns:
        ``tokenizer``, changed in place.
    """
    state = json.loads(tokenizer._tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    for old, new in names.items():
        if old in vocabulary:
            vocabulary[new] = vocabulary.pop(old)
        for token in state["added_tokens"]:
            if token["content"] == old:
                token.update(content=new, special=True)
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.extra_special_tokens = [names.get(token, token) for token in tokenizer.extra_special_tokens]
    return tokenizer


def add_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """Add the image and end-of-chunk tokens where they are missing, as OpenFlamingo does; returns how many."""
    size = len(tokenizer)
    tokens = {"extra_special_tokens": [END_OF_CHUNK_TOKEN, IMAGE_TOKEN]}
    tokenizer.add_special_tokens(tokens, replace_extra_special_tokens=False)
    return len(tokenizer) - size
