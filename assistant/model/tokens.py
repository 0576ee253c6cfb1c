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
    return tokenizer


def add_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """Add the image and end-of-chunk tokens where they are missing, as OpenFlamingo does; returns how many."""
    missing = [t for t in (END_OF_CHUNK_TOKEN, IMAGE_TOKEN) if t not in tokenizer.get_vocab()]
    return tokenizer.add_special_tokens({"additional_special_tokens": missing}) if missing else 0
