"""Pictures and text to tensors, as a transformers processor."""

from typing import Any

from transformers import AutoProcessor, PreTrainedTokenizerBase, ProcessorMixin

from .configuration import FlamingoConfig

# Runs before a language model's own chat template, which often knows plain-string contents only: every message becomes
# one string in which each picture is an image token. Several pictures at the start of a message are numbered, so that
# the text can speak of "the first". Plain strings pass unchanged.
FLATTEN = (
    "{%- set flat = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- set content = namespace(text='', first=0, leading=true) -%}"
    "{%- if message['content'] is string -%}{%- set content.text = message['content'] -%}"
    "{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] != 'image' -%}{%- set content.leading = false -%}{%- endif -%}"
    "{%- if content.leading -%}{%- set content.first = content.first + 1 -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] != 'image' -%}{%- set content.text = content.text + part['text'] -%}"
    "{%- elif content.first > 1 and loop.index <= content.first -%}"
    "{%- set content.text = content.text + 'Picture ' ~ loop.index ~ ': ' + IMAGE + '\n' -%}"
    "{%- else -%}{%- set content.text = content.text + IMAGE -%}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- set flat.messages = flat.messages + [dict(message, content=content.text)] -%}"
    "{%- endfor -%}"
    "{%- set messages = flat.messages -%}"
)

# Where the tokenizer puts a token at the start of every text, a chat has to start with it as well.
START = "{{- bos_token -}}"

# For language models that bring no chat template.
PLAIN_CHAT = (
    "{%- for message in messages -%}"
    "{{ {'system': '', 'user': 'User: ', 'assistant': 'Assistant: '}[message['role']] + message['content'] }}"
    "{{ (eos_token if message['role'] == 'assistant' else '') + '\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}"
)


def chat_template(tokenizer: PreTrainedTokenizerBase, image_token: str) -> str:
    """The language model's own chat template, made to take messages with pictures in them."""
    bos = tokenizer.bos_token_id
    start = START if bos is not None and tokenizer("").input_ids[:1] == [bos] else ""
    return FLATTEN.replace("IMAGE", repr(image_token)) + (tokenizer.chat_template or start + PLAIN_CHAT)


def whole_texts(messages: Any) -> Any:
    """Join neighbouring text parts of messages (or of lists of messages), so that no control token hides in two."""
    if isinstance(messages, (list, tuple)):
        return [whole_texts(message) for message in messages]
    if not isinstance(messages.get("content"), (list, tuple)):
        return messages
    parts: list[dict[str, Any]] = []
    for part in messages["content"]:
        if parts and part["type"] == parts[-1]["type"] == "text":
            parts[-1] = {**parts[-1], "text": parts[-1]["text"] + part["text"]}
        else:
            parts.append(part)
    return {**messages, "content": parts}


class FlamingoProcessor(ProcessorMixin):
    """An image processor and a tokenizer side by side; one image token in the text stands for one picture.

    ``apply_chat_template`` encodes control tokens in message texts as plain text, so that nobody can forge a picture
    or the end of a turn.

    Args:
        image_processor: gives ``pixel_values`` [I, 3, h, w].
        tokenizer: has ``image_token`` as one token.
        chat_template: Jinja; as :func:`chat_template` makes it where none is given.
        image_token: stands for a picture.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        image_token: str = "<image>",
        **kwargs: Any,
    ) -> None:
        self.image_token = image_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        if self.image_token_id is None or self.image_token_id == tokenizer.unk_token_id:
            raise ValueError(f"the tokenizer has no token {image_token!r}; add it, or name another with image_token=")
        super().__init__(
            image_processor, tokenizer, chat_template=chat_template or _make_template(tokenizer, image_token), **kwargs
        )

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs: Any) -> str:
        """One picture is one token; its latents reach the text through cross-attention."""
        return self.image_token

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; tokenized prompts take control tokens in message texts as text, unless told otherwise."""
        if kwargs.get("tokenize"):
            kwargs.setdefault("sanitize_control_tokens", True)
            conversation = whole_texts(conversation)
            # As tokenizers do it: the template writes all special tokens of a chat.
            kwargs["processor_kwargs"] = {"add_special_tokens": False, **(kwargs.get("processor_kwargs") or {})}
        return super().apply_chat_template(conversation, *args, **kwargs)


_make_template = chat_template  # the argument of FlamingoProcessor.__init__ hides the function's name

AutoProcessor.register(FlamingoConfig, FlamingoProcessor)
