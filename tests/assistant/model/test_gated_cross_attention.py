import copy

import pytest
import torch
from torch import nn
from transformers import AutoModel

from assistant.model import FlamingoConfig
from assistant.model.gated_cross_attention import GatedCrossAttentionBlock, insert_blocks, only_slot, with_media
from assistant.model.media import MediaLayer, lay_out

IMAGE, WORD = 5, 7
R, W, D = 3, 12, 16  # latents of a picture, their width, width of the language model


@pytest.fixture
def config(text_configs, towers, bridge):
    def made(**fields) -> FlamingoConfig:
        parts = {"vision_config": towers["clip"]()[0], "text_config": text_configs["llama"]()}
        config = FlamingoConfig(**{**parts, **bridge, **fields})
        config._attn_implementation = "eager"
        return config

    return made


@pytest.fixture
def block(config):
    def made(**fields) -> GatedCrossAttentionBlock:
        torch.manual_seed(0)
        block = GatedCrossAttentionBlock(config(**fields), index=0)
        for module in block.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                nn.init.normal_(module.weight, std=0.5)
        block.attention_gate.data.fill_(0.6)
        block.feed_forward_gate.data.fill_(-0.8)
        return block

    return made


def by_hand(block: GatedCrossAttentionBlock, hidden: torch.Tensor, pictures: list[torch.Tensor]) -> torch.Tensor:
    """One token [D] and the latents [R, W] of the pictures that it sees, as equations (section 3.1.2) say it."""
    if pictures:
        attention = block.attention
        keys, values = attention.to_kv(torch.cat(pictures)).chunk(2, dim=-1)
        heads = []
        q = attention.to_q(attention.norm(hidden)).view(attention.heads, -1)
        keys, values = (x.view(len(x), attention.heads, -1) for x in (keys, values))
        for h in range(attention.heads):
            weights = (keys[:, h] @ q[h] / q.shape[-1] ** 0.5).softmax(0)
            heads.append(weights @ values[:, h])
        hidden = hidden + attention.to_out(torch.cat(heads)) * torch.tanh(block.attention_gate)
    if pictures or not block.skip:
        hidden = hidden + block.feed_forward(hidden) * torch.tanh(block.feed_forward_gate)
    return hidden


ROWS = [[WORD, IMAGE, WORD, IMAGE, WORD], [WORD, WORD, WORD, IMAGE, WORD], [WORD] * 5]


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("attend", ["latest", "all_previous"])
def test_a_block_is_the_loop_over_tokens(block, attend, skip):
    block = block(attend=attend, skip_blocks_without_media=skip)
    ids, hidden = torch.tensor(ROWS), torch.randn(3, 5, D)
    latents = torch.randn(3, 2, R, W)
    latents[1, 1] = latents[2] = 0  # padding of rows with fewer pictures
    output = block(hidden, lay_out(ids, IMAGE, latents, None, attend))
    for b, row in enumerate(ROWS):
        seen: list[torch.Tensor] = []
        for t, token in enumerate(row):
            if token == IMAGE:
                seen.append(latents[b, len(seen)])
            sees = seen[-1:] if attend == "latest" else seen
            torch.testing.assert_close(output[b, t], by_hand(block, hidden[b, t], sees), msg=f"row {b}, token {t}")


@pytest.mark.parametrize("attend", ["latest", "all_previous"])
def test_keys_and_values_come_from_the_cache_after_the_first_call(block, attend):
    block = block(attend=attend)
    ids, hidden, latents = torch.tensor(ROWS), torch.randn(3, 5, D), torch.randn(3, 2, R, W)
    whole = block(hidden, lay_out(ids, IMAGE, latents, None, attend))
    layers = [MediaLayer()]
    start = block(hidden[:, :4], lay_out(ids[:, :4], IMAGE, latents, layers, attend))
    # The last token alone: the path without a dense mask.
    end = block(hidden[:, 4:], lay_out(ids[:, 4:], IMAGE, None, layers, attend))
    torch.testing.assert_close(torch.cat((start, end), dim=1), whole)
    assert layers[0].keys.shape == (3, 2, 2 * R, 4)


@torch.no_grad()
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("cut", [1, 3])
def test_text_before_the_first_picture_comes_with_it_where_blocks_are_not_skipped(make, skip, cut):
    """The exception that the docstring of ``media`` names."""
    model, _ = make(skip_blocks_without_media=skip)
    ids, latents = torch.tensor([[1, WORD, IMAGE, WORD, 9]]), torch.randn(1, 1, R, W)
    whole = model(input_ids=ids, image_latents=latents).logits
    first, second = (None, latents) if cut == 1 else (latents, None)
    start = model(input_ids=ids[:, :cut], image_latents=first)
    end = model(input_ids=ids[:, cut:], image_latents=second, past_key_values=start.past_key_values)
    same = torch.allclose(torch.cat((start.logits, end.logits), dim=1), whole, atol=1e-4)
    assert same == (skip or cut > ids[0].tolist().index(IMAGE))


def test_zero_gates_change_nothing_at_all(block):
    block = block(skip_blocks_without_media=False)
    block.attention_gate.data.zero_()
    block.feed_forward_gate.data.zero_()
    hidden = torch.randn(3, 5, D)
    media = lay_out(torch.tensor(ROWS), IMAGE, torch.randn(3, 2, R, W), None, "latest")
    assert torch.equal(block(hidden, media), hidden)


def test_only_the_latents_of_the_slot_are_taken():
    x = torch.arange(2 * 1 * 6 * 1.0).view(2, 1, 6, 1)
    taken = only_slot(x, torch.tensor([2, 0]), slots=3)
    assert taken.flatten(1).tolist() == [[4.0, 5.0], [6.0, 7.0]]


@pytest.mark.parametrize("family", ["llama", "opt", "gpt-neox", "gemma2"])
def test_inserted_blocks_leave_every_key_of_the_language_model(text_configs, config, family):
    language_model = AutoModel.from_config(text_configs[family]())
    before = {key: value.clone() for key, value in language_model.state_dict().items()}
    name = type(next(m for m in language_model.modules() if isinstance(m, nn.ModuleList))[0]).__name__
    insert_blocks(language_model, config(text_config=language_model.config))
    after = language_model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert {key.split(".gated_cross_attention.")[0] for key in after.keys() - before.keys()} == {
        key for key, module in language_model.named_modules() if getattr(module, "gated_cross_attention", None)
    }
    stack = next(m for m in language_model.modules() if isinstance(m, nn.ModuleList))
    assert {type(layer).__name__ for layer in stack} == {name}  # by which transformers places layers on devices
    assert [layer.gated_cross_attention is not None for layer in stack] == [True, False, True]
    assert [stack[i].gated_cross_attention.index for i in (0, 2)] == [0, 1]


def test_the_class_of_a_layer_is_made_once(text_configs):
    layers = AutoModel.from_config(text_configs["llama"]()).layers
    assert with_media(type(layers[0])) is with_media(type(layers[1]))


def test_a_layer_without_a_block_and_a_call_without_media_run_as_before(text_configs, config):
    bare = AutoModel.from_config(text_configs["llama"]()).eval()
    language_model = copy.deepcopy(bare)
    insert_blocks(language_model, config())
    ids = torch.tensor([[1, 7, 8]])
    assert torch.equal(language_model(ids).last_hidden_state, bare(ids).last_hidden_state)


def test_a_language_model_without_one_stack_of_layers_is_an_error(config):
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.ModuleList(nn.Identity() for _ in range(3)) for _ in range(2))

    for model, count in ((nn.Linear(1, 1), 0), (Two(), 2)):
        with pytest.raises(ValueError, match=f"{type(model).__name__} has {count} stacks of 3 layers"):
            insert_blocks(model, config())
