import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, CLIPVisionModel

from assistant.errors import ModelError
from assistant.model.assembly import assemble, is_adapter_key, load_vision_tower
from assistant.model.tokens import END_OF_CHUNK_TOKEN, IMAGE_TOKEN

RENAME = {"<unused0>": IMAGE_TOKEN, "<unused1>": END_OF_CHUNK_TOKEN}


@pytest.fixture
def fields(bridge) -> dict:
    return {**bridge, "cross_attention_layers": [1], "vision_skip_tokens": 1}


def ask(model, processor, picture) -> dict[str, torch.Tensor]:
    messages = [
        {"role": "user", "content": [{"type": "image", "image": picture("red")}, {"type": "text", "text": "?"}]}
    ]
    return processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")


def test_only_the_vision_tower_of_a_two_tower_model_is_loaded(saved_parts):
    tower = load_vision_tower(saved_parts[0], torch.bfloat16)
    assert type(tower) is CLIPVisionModel and tower.dtype == torch.bfloat16
    from transformers import CLIPModel

    whole = CLIPModel.from_pretrained(saved_parts[0], dtype=torch.bfloat16)
    images = torch.randn(1, 3, 16, 16, dtype=torch.bfloat16)
    assert torch.equal(tower(images).pooler_output, whole.vision_model(images).pooler_output)


@torch.no_grad()
def test_parts_from_directories_become_a_model_that_sees(saved_parts, fields, picture):
    model, processor = assemble(*saved_parts, rename=RENAME, **fields)
    inputs = ask(model, processor, picture)
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 1
    logits = model(**inputs).logits
    assert not torch.allclose(model(**{**inputs, "pixel_values": -inputs["pixel_values"]}).logits, logits, atol=1e-3)
    bare = AutoModelForCausalLM.from_pretrained(saved_parts[1])
    text = torch.tensor([[1, 7, 8]])
    assert torch.equal(model(input_ids=text).logits, bare(input_ids=text).logits)


def test_renamed_tokens_leave_the_embeddings_as_they_are(saved_parts, fields):
    model, processor = assemble(*saved_parts, rename=RENAME, **fields)
    size = AutoConfig.from_pretrained(saved_parts[1]).vocab_size
    assert model.config.text_config.vocab_size == model.get_input_embeddings().num_embeddings == size
    assert model.config.image_token_id == processor.image_token_id == 3


@torch.no_grad()
def test_added_tokens_get_rows_that_are_the_same_every_time(saved_parts, fields, picture):
    state = torch.random.get_rng_state()
    torch.manual_seed(1)
    first, processor = assemble(*saved_parts, **fields)
    torch.manual_seed(2)
    second, _ = assemble(*saved_parts, **fields)
    torch.random.set_rng_state(state)
    size = AutoConfig.from_pretrained(saved_parts[1]).vocab_size
    assert first.get_input_embeddings().num_embeddings == first.config.text_config.vocab_size == size + 2
    assert first.lm_head.out_features == size + 2
    assert torch.equal(first.get_input_embeddings().weight, second.get_input_embeddings().weight)
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert first(**ask(first, processor, picture)).logits.shape[-1] == size + 2


def test_the_parts_are_frozen_and_the_bridge_is_not(saved_parts, fields):
    model, _ = assemble(*saved_parts, rename=RENAME, **fields, standardise_features=True)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    bridge = {name for name, _ in model.named_parameters() if is_adapter_key(name)}
    assert trained == {name for name in bridge if "feature_" not in name}
    assert bridge - trained == {"model.resampler.feature_mean", "model.resampler.feature_std"}
    assert not model.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_weights_have_the_dtype_that_was_asked_for(saved_parts, fields, dtype, picture):
    model, processor = assemble(*saved_parts, dtype=dtype, rename=RENAME, **fields)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model(**ask(model, processor, picture)).logits.isfinite().all()


def test_no_weight_is_left_without_a_value(saved_parts, fields):
    model, _ = assemble(*saved_parts, rename=RENAME, **fields, resampler_positions=4, resampler_max_frames=2)
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    resampler = model.model.resampler
    for drawn in (resampler.latents, resampler.patch_positions, resampler.frame_positions):
        assert drawn.std().item() == pytest.approx(0.3, rel=0.5)  # the initializer_range of the bridge


@pytest.mark.parametrize("role", ["vision", "language"])
def test_a_part_that_cannot_be_loaded_is_named(saved_parts, fields, role, tmp_path):
    for damage in ("absent", "config.json", "model.safetensors"):
        folder = tmp_path / damage
        if damage != "absent":
            folder.mkdir()
            for file in saved_parts[role == "language"].iterdir():
                data = file.read_bytes()
                (folder / file.name).write_bytes(data[: len(data) // 2] if file.name == damage else data)
        parts = (folder, saved_parts[1]) if role == "vision" else (saved_parts[0], folder)
        with pytest.raises(ModelError, match=f"the {role} part .*{damage} cannot be loaded: ."):
            assemble(*parts, **fields)
