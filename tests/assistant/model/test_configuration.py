import json

import pytest
from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig

from assistant.model import FlamingoConfig


@pytest.fixture
def config(text_configs, towers, bridge) -> FlamingoConfig:
    vision, reading = towers["clip"]()
    return FlamingoConfig(vision_config=vision, text_config=text_configs["llama"](), **bridge, **reading)


def test_a_saved_configuration_comes_back_whole(config, tmp_path):
    config.save_pretrained(tmp_path)
    back = AutoConfig.from_pretrained(tmp_path)
    assert type(back) is FlamingoConfig
    assert isinstance(back.vision_config, CLIPVisionConfig) and isinstance(back.text_config, LlamaConfig)
    assert back.to_dict() == {**config.to_dict(), "_name_or_path": back._name_or_path}
    assert back.get_text_config() is back.text_config


def test_the_parts_may_be_dicts_as_in_a_json_file(config):
    back = FlamingoConfig(**json.loads(config.to_json_string(use_diff=False)))
    assert isinstance(back.vision_config, CLIPVisionConfig)
    assert back.text_config.hidden_size == config.text_config.hidden_size


def test_special_tokens_and_tying_are_those_of_the_language_model(text_configs):
    config = FlamingoConfig(text_config=text_configs["llama-tied"](), cross_attention_layers=[0])
    assert config.tie_word_embeddings
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 0)
    assert not FlamingoConfig(text_config=text_configs["llama"](), cross_attention_layers=[0]).tie_word_embeddings


def test_layers_are_sorted(config):
    config = FlamingoConfig(text_config=config.text_config, cross_attention_layers=(2, 0))
    assert config.cross_attention_layers == [0, 2]


@pytest.mark.parametrize("outside", [-1, 3])
def test_a_layer_that_the_language_model_has_not_is_an_error(config, outside):
    with pytest.raises(ValueError, match=rf"\[{outside}\] are outside the 3 layers"):
        FlamingoConfig(text_config=config.text_config, cross_attention_layers=[0, outside])


def test_an_unknown_way_to_attend_is_an_error(config):
    with pytest.raises(ValueError, match="attend"):
        FlamingoConfig(text_config=config.text_config, cross_attention_layers=[0], attend="all")


def test_a_grid_has_no_more_cells_than_there_are_latents(config):
    made = {"text_config": config.text_config, "cross_attention_layers": [0], "resampler_latents": 8}
    assert FlamingoConfig(**made).resampler_grid == 0
    assert FlamingoConfig(**{**made, "resampler_latents": 9}, resampler_grid=3).resampler_grid == 3
    with pytest.raises(ValueError, match="resampler_grid 3 has more cells than the 8 latents"):
        FlamingoConfig(**made, resampler_grid=3)


@pytest.mark.parametrize(
    ("tower", "extra", "width"),
    [
        ("clip", (), 12),
        ("clip", [[1, 2], [0, 1]], 12 + 48 + 12),
        ("efficientnet-lite", [[2, 3], [7, 1], [-1, 2]], 12 + 9 * 16 + 12 + 48),
    ],
)
def test_extra_layers_widen_the_features(text_configs, towers, tower, extra, width, tmp_path):
    config = FlamingoConfig(
        vision_config=towers[tower]()[0],
        text_config=text_configs["llama"](),
        cross_attention_layers=[0],
        vision_extra_layers=extra,
    )
    assert config.feature_width == width
    config.save_pretrained(tmp_path)
    back = AutoConfig.from_pretrained(tmp_path)
    assert [list(pair) for pair in back.vision_extra_layers] == list(extra) and back.feature_width == width
