import copy
import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText, DynamicCache

from assistant.model import FlamingoForConditionalGeneration, FlamingoModel

IMAGE = 5
FAMILIES = [
    ("llama", "clip"),
    ("llama", "siglip"),
    ("llama", "dinov2"),
    ("llama", "efficientnet-lite"),
    *((family, "clip") for family in ("llama-tied", "qwen2", "qwen3", "opt", "opt-350m", "gpt-neox")),
    *((family, "siglip") for family in ("gemma", "gemma2", "gemma3", "granite")),
]
IDS = torch.tensor([[1, 7, IMAGE, 8, 9, IMAGE, 10, 11]])


def pixels(model, count: int, seed: int = 0, frames: int | None = None) -> torch.Tensor:
    side = model.config.vision_config.image_size
    shape = (count, 3, side, side) if frames is None else (count, frames, 3, side, side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def set_gates(model, value: float) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):
            parameter.data.fill_(value)


@pytest.fixture(scope="module", params=FAMILIES, ids="-".join)
def family(request, make):
    """One tiny model of every family; tests may turn its gates, and set them back."""
    return make(*request.param)


@torch.no_grad()
def test_zero_gates_are_exactly_the_bare_language_model(family):
    model, bare = family
    images = pixels(model, 2)
    with_pictures = model(input_ids=IDS, pixel_values=images).logits
    set_gates(model, 0)
    closed = model(input_ids=IDS, pixel_values=images).logits
    set_gates(model, 1)
    expected = bare(input_ids=IDS).logits
    assert torch.equal(closed, expected)
    assert (with_pictures - expected).abs().max() > 0.01


@torch.no_grad()
def test_text_alone_is_exactly_the_bare_language_model(family):
    model, bare = family
    ids = torch.tensor([[1, 7, 8, 9]])
    assert torch.equal(model(input_ids=ids).logits, bare(input_ids=ids).logits)


def test_the_language_model_keeps_its_keys(family):
    model, bare = family
    prefix = f"{bare.base_model_prefix}."
    keys = model.state_dict()
    for key, value in bare.state_dict().items():
        mine = f"model.language_model.{key.removeprefix(prefix)}" if key.startswith(prefix) else "lm_head.weight"
        assert torch.equal(keys[mine], value), key


def test_greedy_decoding_with_a_cache_is_greedy_decoding_without(family):
    model, _ = family
    ask = {"input_ids": IDS, "pixel_values": pixels(model, 2), "eos_token_id": None, "pad_token_id": 0}
    cached = model.generate(**ask, max_new_tokens=6, do_sample=False)
    assert cached.shape == (1, 14)
    assert torch.equal(cached, model.generate(**ask, max_new_tokens=6, do_sample=False, use_cache=False))


@torch.no_grad()
def test_a_saved_model_comes_back_the_same(family, tmp_path):
    model, _ = family
    model.save_pretrained(tmp_path)
    back = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(back) is FlamingoForConditionalGeneration
    ask = {"input_ids": IDS, "pixel_values": pixels(model, 2)}
    assert torch.equal(back(**ask).logits, model(**ask).logits)
    assert (back.lm_head.weight is back.get_input_embeddings().weight) == model.config.tie_word_embeddings


@torch.no_grad()
@pytest.mark.parametrize("skip", [True, False])
def test_zero_output_projections_start_as_the_bare_language_model(make, skip):
    model, bare = make(zero_init_output=True, gate_init=0.7, skip_blocks_without_media=skip)
    assert torch.equal(model(input_ids=IDS, pixel_values=pixels(model, 2)).logits, bare(input_ids=IDS).logits)
    ask = {"input_ids": IDS, "pixel_values": pixels(model, 2)}
    fresh = FlamingoForConditionalGeneration(model.config).eval()  # not joined: initialised by transformers
    open_gates = fresh(**ask).logits
    gates = [parameter for name, parameter in fresh.named_parameters() if name.endswith("_gate")]
    assert len(gates) == 4 and all(gate.item() == pytest.approx(0.7) for gate in gates)
    set_gates(fresh, 0)
    assert torch.equal(open_gates, fresh(**ask).logits)


@torch.no_grad()
@pytest.mark.parametrize(
    ("attend", "changed", "first_moved"),
    [("latest", 0, 2), ("latest", 1, 5), ("all_previous", 0, 2), ("all_previous", 1, 5)],
)
def test_a_picture_moves_the_text_from_its_token_on_and_none_before(make, attend, changed, first_moved):
    model, _ = make(attend=attend)
    images = pixels(model, 2)
    others = images.clone()
    others[changed] = pixels(model, 1, seed=1)
    moved = (model(input_ids=IDS, pixel_values=images).logits - model(input_ids=IDS, pixel_values=others).logits) != 0
    assert moved.any(-1)[0].tolist() == [position >= first_moved for position in range(IDS.shape[1])]


@torch.no_grad()
def test_pictures_are_taken_in_the_order_of_their_tokens(make):
    model, _ = make()
    images = pixels(model, 2)
    latents = model.model.image_latents(images, IDS)
    torch.testing.assert_close(latents[0, :1], model.model.image_latents(images[:1], IDS[:, :4])[0])
    swapped = model(input_ids=IDS, pixel_values=images.flip(0)).logits
    assert not torch.allclose(model(input_ids=IDS, pixel_values=images).logits, swapped, atol=1e-3)


@torch.no_grad()
def test_each_row_gets_its_own_pictures(make):
    model, _ = make()
    images = pixels(model, 3)
    ids = torch.tensor([[IMAGE, 7, IMAGE], [7, 8, 9], [7, IMAGE, 8]])
    latents = model.model.image_latents(images, ids)
    single = [model.model.resampler(*model.model.image_features(images[i : i + 1]))[0] for i in range(3)]
    assert latents.shape[:2] == (3, 2)
    torch.testing.assert_close(latents[0], torch.stack((single[0], single[1])))
    torch.testing.assert_close(latents[2, 0], single[2])
    assert not latents[1].any() and not latents[2, 1].any()


LEFT_PADDED = torch.tensor(
    [[0, 0, 0, 1, 7, 8], [1, IMAGE, 7, IMAGE, 8, 9], [0, 0, 1, IMAGE, 8, 9], [0, 1, 7, 8, 9, IMAGE]]
)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "opt", "gpt-neox", "gemma3"])
@pytest.mark.parametrize("attend", ["latest", "all_previous"])
def test_a_left_padded_batch_is_its_rows_one_by_one(make, family, attend):
    model, _ = make(family, attend=attend)
    images = pixels(model, 4)
    mask = (LEFT_PADDED != 0).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    batch = model(input_ids=LEFT_PADDED, attention_mask=mask, position_ids=positions, pixel_values=images).logits
    start = 0
    for row, logits in zip(LEFT_PADDED, batch, strict=True):
        ids = row[row != 0][None]
        count = int((ids == IMAGE).sum())
        shown = images[start : start + count] if count else None
        start += count
        alone = model(input_ids=ids, pixel_values=shown).logits[0]
        torch.testing.assert_close(logits[row != 0], alone, atol=2e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("attend", ["latest", "all_previous"])
@pytest.mark.parametrize("cuts", [[1], [2, 3], [1, 2, 3, 4, 5], [5]])
def test_text_in_chunks_through_a_cache_is_one_call(make, family, attend, cuts):
    model, _ = make(family, attend=attend)
    images = pixels(model, 4)
    mask = (LEFT_PADDED != 0).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    whole = model(input_ids=LEFT_PADDED, attention_mask=mask, position_ids=positions, pixel_values=images).logits
    of_row = iter(images)  # pictures come row by row, chunks token by token
    by_token = {(b, t): next(of_row) for b, t in (LEFT_PADDED == IMAGE).nonzero().tolist()}
    cache, logits = DynamicCache(config=model.config.text_config), []
    for start, end in zip([0, *cuts], [*cuts, LEFT_PADDED.shape[1]], strict=True):
        shown = [by_token[b, t] for b in range(4) for t in range(start, end) if (b, t) in by_token]
        output = model(
            input_ids=LEFT_PADDED[:, start:end],
            attention_mask=mask[:, :end],
            position_ids=positions[:, start:end],
            past_key_values=cache,
            pixel_values=torch.stack(shown) if shown else None,
        )
        logits.append(output.logits)
    real = mask.bool()
    torch.testing.assert_close(torch.cat(logits, dim=1)[real], whole[real], atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_an_image_token_that_one_row_emits_leaves_the_other_rows_alone(make):
    model, _ = make()
    images = pixels(model, 3)
    ids = torch.tensor([[1, IMAGE, 7, 8], [1, IMAGE, IMAGE, 8]])

    def decode(emitted: int) -> torch.Tensor:
        cache = DynamicCache(config=model.config.text_config)
        model(input_ids=ids, pixel_values=images, past_key_values=cache)
        model(input_ids=torch.tensor([[emitted], [9]]), past_key_values=cache)
        return model(input_ids=torch.tensor([[10], [10]]), past_key_values=cache).logits

    emitted, ordinary = decode(IMAGE), decode(11)
    assert torch.equal(emitted[1], ordinary[1])
    assert emitted[0].isfinite().all() and not torch.equal(emitted[0], ordinary[0])


@torch.no_grad()
def test_unseeing_tokens_skip_the_block_or_only_its_attention(make):
    """The gated feed-forward of OpenFlamingo runs on every token of a text with pictures."""
    for skip in (True, False):
        model, bare = make(skip_blocks_without_media=skip)
        before = model(input_ids=IDS, pixel_values=pixels(model, 2)).logits[:, :2]
        assert torch.equal(before, bare(input_ids=IDS).logits[:, :2]) == skip
        # The text before a picture sees nothing of it either way.
        assert torch.equal(before, model(input_ids=IDS, pixel_values=pixels(model, 2, seed=1)).logits[:, :2])


@torch.no_grad()
def test_frames_of_one_picture_share_one_image_token(make):
    model, _ = make(resampler_max_frames=3)
    ids = torch.tensor([[1, IMAGE, 7]])
    clip = pixels(model, 1, frames=3)
    logits = model(input_ids=ids, pixel_values=clip).logits
    assert not torch.allclose(logits, model(input_ids=ids, pixel_values=clip.flip(1)).logits, atol=1e-3)
    one = pixels(model, 1)
    assert torch.equal(
        model(input_ids=ids, pixel_values=one).logits, model(input_ids=ids, pixel_values=one.unsqueeze(1)).logits
    )
    with pytest.raises(ValueError, match=r"4 frames.*for 3"):
        model(input_ids=ids, pixel_values=pixels(model, 1, frames=4))


@torch.no_grad()
def test_the_feature_layer_and_the_skipped_tokens_are_those_of_the_configuration(make):
    model, _ = make(vision_feature_layer=-2, vision_skip_tokens=1)
    images = pixels(model, 2)
    tower = model.model.vision_tower(images, output_hidden_states=True)
    patches, logits = model.model.image_features(images)
    assert torch.equal(patches[:, 0], tower.hidden_states[-2][:, 1:]) and logits is None


@torch.no_grad()
def test_class_logits_are_read_from_the_tower(make):
    model, _ = make(tower="efficientnet-lite")
    images = pixels(model, 2)
    patches, logits = model.model.image_features(images)
    assert torch.equal(logits[:, 0], model.model.vision_tower(images).logits)
    assert patches.shape[:2] == (2, 1)


@pytest.mark.parametrize("given", [0, 1, 3])
def test_other_numbers_of_pictures_than_image_tokens_are_errors_that_count_both(make, given):
    model, _ = make()
    images = pixels(model, given) if given else None
    for run in (model, lambda **ask: model.generate(**ask, max_new_tokens=2)):
        with pytest.raises(ValueError, match=rf"has 2 image tokens.*\b{given} pictures"):
            run(input_ids=IDS, pixel_values=images)


def test_encoded_pictures_are_counted_too(make):
    model, _ = make()
    with pytest.raises(ValueError, match="has 2 image tokens in a row, and 1 pictures"):
        model(input_ids=IDS, image_latents=torch.zeros(1, 1, 3, 12))


def test_embeddings_alone_run_but_cannot_place_pictures(make):
    model, bare = make()
    embeddings = model.get_input_embeddings()(torch.tensor([[1, 7, 8]]))
    assert torch.equal(model(inputs_embeds=embeddings).logits, bare(inputs_embeds=embeddings).logits)
    for pictures in ({"pixel_values": pixels(model, 1)}, {"image_latents": torch.zeros(1, 1, 3, 12)}):
        with pytest.raises(ValueError, match="pictures need input_ids"):
            model(inputs_embeds=embeddings, **pictures)


def test_a_language_model_that_would_never_see_the_pictures_says_so(make):
    """MPT's layers are called without keyword arguments; an answer that ignores the picture would be worse."""
    model, _ = make("mpt")
    with pytest.raises(ValueError, match="pictures do not reach MptModel"):
        model(input_ids=IDS, pixel_values=pixels(model, 2))


@torch.no_grad()
def test_attention_implementations_agree_and_can_be_switched(make):
    model, _ = make()
    ask = {"input_ids": LEFT_PADDED, "attention_mask": (LEFT_PADDED != 0).long(), "pixel_values": pixels(model, 4)}
    sdpa = model(**ask).logits
    model.set_attn_implementation("eager")
    block = model.model.language_model.layers[0].gated_cross_attention.attention
    assert model.model.resampler.layers[0].attention.config._attn_implementation == "eager"
    assert block.config._attn_implementation == model.model.language_model.config._attn_implementation == "eager"
    real = LEFT_PADDED != 0
    torch.testing.assert_close(model(**ask).logits[real], sdpa[real], atol=1e-4, rtol=1e-4)
    assert len(model(**ask, output_attentions=True).attentions) == 3


def gradients(model, **ask) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(input_ids=IDS, pixel_values=pixels(model, 2), labels=IDS, **ask).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("use_cache", [None, True])
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_gradient_checkpointing_gives_the_same_gradients(make, use_cache):
    model, _ = make()
    model.train()
    plain = gradients(model)
    model.gradient_checkpointing_enable()
    checkpointed = gradients(model, use_cache=use_cache)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


def test_gradients_reach_the_bridge_and_nothing_frozen(make):
    model, _ = make()
    model.train()
    reached = gradients(model)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert reached.keys() == trainable
    assert all(name.startswith("model.resampler.") or ".gated_cross_attention." in name for name in trainable)
    assert all(gradient.abs().max() > 0 for gradient in reached.values())


def test_the_loss_is_the_mean_over_the_labelled_tokens(make):
    model, _ = make()
    labels = IDS.masked_fill(IDS == IMAGE, -100)
    output = model(input_ids=IDS, pixel_values=pixels(model, 2), labels=labels)
    expected = nn.functional.cross_entropy(output.logits[0, :-1], labels[0, 1:], ignore_index=-100)
    torch.testing.assert_close(output.loss, expected)


@torch.no_grad()
def test_other_forms_of_output(make):
    model, _ = make()
    ask = {"input_ids": IDS, "pixel_values": pixels(model, 2)}
    output = model(**ask, output_hidden_states=True)
    assert len(output.hidden_states) == 4
    assert torch.equal(model.head(output.hidden_states[-1]), output.logits)
    assert torch.equal(model(**ask, return_dict=False)[0], output.logits)
    torch.testing.assert_close(model(**ask, logits_to_keep=2).logits, output.logits[:, -2:])
    torch.testing.assert_close(model(**ask, logits_to_keep=torch.tensor([0, 3])).logits, output.logits[:, [0, 3]])
    assert model(**ask, use_cache=False).past_key_values is None
    assert torch.equal(model.model(**ask, return_dict=False)[0], output.hidden_states[-1])


@torch.no_grad()
def test_a_cache_without_a_configuration_serves_as_well(make):
    model, _ = make()
    ask = {"input_ids": IDS, "pixel_values": pixels(model, 2)}
    cache = DynamicCache()
    assert torch.equal(model(**ask, past_key_values=cache).logits, model(**ask).logits)
    assert len(cache.layers) == 5 and cache.get_seq_length() == IDS.shape[1]


@torch.no_grad()
def test_no_call_leaves_anything_behind_on_the_modules(make):
    model, _ = make()
    state = {name: set(vars(module)) for name, module in model.named_modules()}
    first = model(input_ids=IDS, pixel_values=pixels(model, 2)).logits
    model(input_ids=IDS[:, :4], pixel_values=pixels(model, 1, seed=3))
    assert torch.equal(model(input_ids=IDS, pixel_values=pixels(model, 2)).logits, first)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == state


@torch.no_grad()
def test_a_deep_copy_is_a_model_of_its_own(make):
    model, _ = make()
    twin = copy.deepcopy(model)
    ask = {"input_ids": IDS, "pixel_values": pixels(model, 2)}
    assert torch.equal(twin(**ask).logits, model(**ask).logits)
    set_gates(twin, 0)
    assert not torch.equal(twin(**ask).logits, model(**ask).logits)


def test_embeddings_can_be_resized(make):
    model, _ = make()
    model.resize_token_embeddings(100)
    output = model(input_ids=torch.tensor([[1, 99, IMAGE]]), pixel_values=pixels(model, 1), labels=IDS[:, :3])
    assert output.logits.shape[-1] == 100 and model.config.text_config.vocab_size == 100 and output.loss.isfinite()


def test_the_base_model_is_registered_too(make, tmp_path):
    model, _ = make()
    model.model.save_pretrained(tmp_path)
    back = AutoModel.from_pretrained(tmp_path)
    assert type(back) is FlamingoModel
    ask = {"input_ids": IDS, "pixel_values": pixels(model, 2)}
    assert torch.equal(back(**ask).last_hidden_state, model.model(**ask).last_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize("device_map", ["cpu", "auto", "disk"])
def test_a_model_is_placed_by_a_device_map(make, tmp_path, device_map):
    pytest.importorskip("accelerate")
    model, _ = make()
    model.save_pretrained(tmp_path / "model")
    ask = {"input_ids": IDS, "pixel_values": pixels(model, 2)}
    placing = {"device_map": device_map}
    if device_map == "disk":
        # Half of the language model comes from disk while it runs, so every hook of accelerate is in the way.
        layers = {f"model.language_model.layers.{i}": "disk" if i else "cpu" for i in range(3)}
        rest = ("vision_tower", "resampler", "language_model.embed_tokens", "language_model.norm")
        rest = {f"model.{name}": "cpu" for name in (*rest, "language_model.rotary_emb")}
        placing = {"device_map": {**layers, **rest, "lm_head": "cpu"}, "offload_folder": tmp_path / "offload"}
    placed = AutoModelForImageTextToText.from_pretrained(tmp_path / "model", **placing)
    assert torch.equal(placed(**ask).logits, model(**ask).logits)
    assert set(model._no_split_modules) >= {"LlamaDecoderLayer", "CLIPEncoderLayer"}


def test_a_model_with_the_default_tower_loads_where_nothing_else_of_this_package_is_imported(make, tmp_path):
    model, _ = make(tower="efficientnet-lite")
    model.save_pretrained(tmp_path)
    code = (
        "import sys; from assistant.model import FlamingoForConditionalGeneration as F;"
        "print(type(F.from_pretrained(sys.argv[1]).model.vision_tower).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["EfficientNetLiteModel"], done.stderr
    assert json.loads((tmp_path / "config.json").read_text())["vision_config"]["model_type"] == "efficientnet_lite"
