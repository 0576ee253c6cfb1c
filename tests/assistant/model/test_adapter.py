import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, CLIPModel

from assistant.errors import ModelError
from assistant.model.adapter import (
    DESCRIPTION,
    WEIGHTS,
    Adapter,
    adapter_state,
    fingerprint,
    load_adapter,
    load_assembled,
    save_adapter,
)
from assistant.model.assembly import assemble, load_vision_tower
from assistant.model.tokens import END_OF_CHUNK_TOKEN, IMAGE_TOKEN

RENAME = {"<unused0>": IMAGE_TOKEN, "<unused1>": END_OF_CHUNK_TOKEN}


@pytest.fixture(scope="module")
def fields(bridge) -> dict:
    return {**bridge, "cross_attention_layers": [1], "vision_skip_tokens": 1, "standardise_features": True}


@pytest.fixture(scope="module", params=[RENAME, {}], ids=["renamed tokens", "added tokens"])
def trained(request, saved_parts, fields, tmp_path_factory):
    """A model with a bridge that is no fresh one, and its adapter."""
    model, processor = assemble(*saved_parts, dtype=torch.bfloat16, rename=request.param, **fields)
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in adapter_state(model).values():
            tensor.add_(torch.randn_like(tensor) * 0.1)
    folder = tmp_path_factory.mktemp("adapter")
    vision, language = map(str, saved_parts)
    save_adapter(folder, model, vision, language, request.param, {"steps": 3})
    return model, processor, folder


@pytest.fixture
def adapter(trained, tmp_path):
    """A copy of the adapter that a test may damage."""
    return shutil.copytree(trained[2], tmp_path / "adapter")


def logits(model, processor, picture) -> torch.Tensor:
    messages = [
        {"role": "user", "content": [{"type": "image", "image": picture("red")}, {"type": "text", "text": "?"}]}
    ]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits


def test_a_loaded_adapter_gives_the_same_logits(trained, saved_parts, picture):
    model, processor, folder = trained
    loaded, its_processor = load_assembled(folder, *saved_parts, torch.bfloat16)
    assert torch.equal(logits(loaded, its_processor, picture), logits(model, processor, picture))
    assert its_processor.chat_template == processor.chat_template


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_adapter_loads_in_every_dtype(trained, saved_parts, picture, dtype):
    model, processor, folder = trained
    loaded, _ = load_assembled(folder, *saved_parts, dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    expected = logits(model, processor, picture).float()
    torch.testing.assert_close(logits(loaded, processor, picture).float(), expected, atol=0.5, rtol=0.1)


def test_an_adapter_holds_the_bridge_in_bfloat16_and_nothing_else(trained):
    model, _, folder = trained
    tensors = load_file(folder / WEIGHTS)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    frozen = {*model.model.vision_tower.state_dict(), "lm_head.weight"}
    assert tensors.keys() == adapter_state(model).keys() and not frozen & tensors.keys()
    assert {name.split(".")[1] for name in tensors} == {"resampler", "language_model"}
    assert "model.resampler.feature_mean" in tensors


def test_the_description_says_what_it_belongs_to(trained, saved_parts, fields):
    adapter = Adapter.read(trained[2])
    assert (adapter.vision.name, adapter.language.name) == tuple(map(str, saved_parts))
    assert adapter.vision.fingerprint == fingerprint(load_vision_tower(saved_parts[0], torch.float32))
    assert adapter.training == {"steps": 3}
    assert {name: adapter.model[name] for name in fields} == fields
    own = json.loads((trained[2] / DESCRIPTION).read_text())["model"]
    assert not {"vision_config", "text_config", "image_token_id", "model_type"} & own.keys()


def test_a_fingerprint_is_of_the_values_and_not_of_their_precision(saved_parts, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(saved_parts[1], dtype=torch.bfloat16)
    assert fingerprint(model) == fingerprint(AutoModelForCausalLM.from_pretrained(saved_parts[1], dtype=torch.float32))
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert fingerprint(again) == fingerprint(model)


def test_a_fingerprint_sees_values_shapes_and_names(saved_parts):
    model = AutoModelForCausalLM.from_pretrained(saved_parts[1])
    before = fingerprint(model)
    norm = model.model.norm.weight
    with torch.no_grad():
        norm[0] += 0.1
        assert fingerprint(model) != before
        norm[0] -= 0.1
    assert fingerprint(model) == before
    wide, tall = torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(3, 2, bias=False)
    tall.weight = torch.nn.Parameter(wide.weight.detach().reshape(2, 3))
    assert fingerprint(wide) != fingerprint(tall)
    assert fingerprint(torch.nn.Sequential(wide)) != fingerprint(wide)


@pytest.mark.parametrize("role", ["vision", "language"])
def test_another_part_is_an_error_that_names_both(trained, saved_parts, adapter, tmp_path, role):
    model_class = CLIPModel if role == "vision" else AutoModelForCausalLM
    other = shutil.copytree(saved_parts[role == "language"], tmp_path / "other")
    model = model_class.from_pretrained(other)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.save_pretrained(other)
    parts = (other, saved_parts[1]) if role == "vision" else (saved_parts[0], other)
    with pytest.raises(ModelError, match=rf"belongs to the {role} part .*{saved_parts[role == 'language']}.*{other}"):
        load_assembled(adapter, *parts, torch.float32)


def cut(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def test_a_damaged_file_of_weights_is_an_error(trained, saved_parts, adapter):
    for damage in (cut, lambda path: path.write_bytes(b""), lambda path: path.unlink()):
        damage(adapter / WEIGHTS)
        with pytest.raises(ModelError, match=f"{WEIGHTS} cannot be read .*fetch or train"):
            load_assembled(adapter, *saved_parts, torch.float32)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_weights_that_do_not_fit_are_counted_and_named(trained, saved_parts, adapter, change):
    tensors = load_file(adapter / WEIGHTS)
    if change == "missing":
        del tensors["model.resampler.latents"]
    elif change == "unknown":
        tensors["model.resampler.more"] = torch.zeros(1)
    else:
        tensors["model.resampler.latents"] = torch.zeros(1, 2)
    save_file(tensors, adapter / WEIGHTS)
    name = "more" if change == "unknown" else "latents"
    with pytest.raises(ModelError, match=f"does not fit its description: 1 weights, first model.resampler.{name}"):
        load_assembled(adapter, *saved_parts, torch.float32)


DAMAGED = [
    "",
    "{",
    "[]",
    "null",
    "3",
    '{"vision": 1}',
    '{"vision": {"name": "a"}, "language": {}, "model": {}}',
    b"\xff",
]


@pytest.mark.parametrize("text", DAMAGED, ids=repr)
def test_a_damaged_description_is_an_error(adapter, text):
    (adapter / DESCRIPTION).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ModelError, match=f"{DESCRIPTION} is damaged"):
        Adapter.read(adapter)


def test_a_folder_without_a_description_is_no_adapter(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ModelError, match=f"holds no adapter: {DESCRIPTION} cannot be read"):
            Adapter.read(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cross_attention_layers", [7]),
        ("attend", "none"),
        ("resampler_heads", "two"),
        ("resampler_depth", None),
        ("model", []),
        ("model", {"vision_config": {}}),
        ("rename_tokens", 3),
    ],
)
def test_a_description_of_no_possible_model_is_an_error(trained, saved_parts, adapter, key, value):
    tree = json.loads((adapter / DESCRIPTION).read_text())
    if key in tree:
        tree[key] = value
    else:
        tree["model"][key] = value
    (adapter / DESCRIPTION).write_text(json.dumps(tree))
    with pytest.raises(ModelError, match=DESCRIPTION):
        load_assembled(adapter, *saved_parts, torch.float32)


def test_an_adapter_of_another_shape_does_not_half_load(trained, saved_parts, fields, adapter):
    model, _ = assemble(*saved_parts, rename=Adapter.read(adapter).rename_tokens, **{**fields, "resampler_latents": 5})
    before = {name: tensor.clone() for name, tensor in adapter_state(model).items()}
    with pytest.raises(ModelError, match="does not fit"):
        load_adapter(model, adapter)
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter_state(model).items())


@torch.no_grad()
def test_an_adapter_says_which_layers_of_the_tower_it_reads_and_by_which_grid(saved_parts, fields, picture, tmp_path):
    extra = [[1, 2], [0, 1]]
    fields = {**fields, "vision_extra_layers": extra, "resampler_width": 8, "resampler_latents": 5, "resampler_grid": 2}
    model, processor = assemble(*saved_parts, rename=RENAME, **fields)
    vision, language = map(str, saved_parts)
    model.model.resampler.feature_mean.normal_()
    model.model.resampler.feature_std.uniform_(0.5, 2)
    for tensor in adapter_state(model).values():
        tensor.copy_(tensor.bfloat16())  # as the file has them
    save_adapter(tmp_path, model, vision, language, RENAME, {})
    described = Adapter.read(tmp_path).model
    assert (described["vision_extra_layers"], described["resampler_grid"]) == (extra, 2)
    loaded, its_processor = load_assembled(tmp_path, *saved_parts, torch.float32)
    assert loaded.config.feature_width == model.config.feature_width == 16 * 6
    assert torch.equal(logits(loaded, its_processor, picture), logits(model, processor, picture))
    for name in ("local.weight", "feature_mean", "feature_std"):
        assert f"model.resampler.{name}" in load_file(tmp_path / WEIGHTS)
    before = logits(model, processor, picture)
    loaded.model.resampler.local.weight.zero_()
    assert not torch.equal(logits(loaded, its_processor, picture), before)
