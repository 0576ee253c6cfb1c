"""The embedded default itself, on its real parts."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import assistant
from assistant import Assistant
from assistant.parts import PARTS, ensure_part, part_state

DEMO = Path(assistant.__file__).parent / "assets" / "demo.jpg"
PROMPTS = [
    "What is the capital of France?",
    "Name three colours.",
    "Write a short poem about rain.",
    "What is 2 + 2?",
    "Explain gravity.",
    "Who wrote Hamlet?",
    "List two fruits.",
    "Translate 'good morning' to French.",
    "What is a flamingo?",
    "Tell me a joke.",
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def default():
    if any(part_state(name) != "ready" for name in PARTS):
        pytest.skip("needs the frozen parts: assistant models fetch")
    return Assistant.from_pretrained("default")


def test_without_a_picture_it_is_the_bare_language_model(default):
    place = ensure_part("smollm2-135m-instruct")
    bare = AutoModelForCausalLM.from_pretrained(place, dtype=default.model.dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(place)
    for prompt in PROMPTS:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        expected = bare.generate(**inputs, max_new_tokens=24, do_sample=False)
        assert torch.equal(
            default.model.generate(**default.encode(prompt), max_new_tokens=24, do_sample=False), expected
        )


def test_it_names_the_bundled_photograph(default):
    assert "panda" in default.ask("What is in the picture?", [DEMO]).text
