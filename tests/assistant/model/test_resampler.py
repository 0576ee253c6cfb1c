import pytest
import torch

from assistant.model import FlamingoConfig
from assistant.model.resampler import PerceiverResampler

WIDTH = 12  # of the tower


@pytest.fixture
def resampler(text_configs, towers, bridge):
    def made(**fields) -> PerceiverResampler:
        vision, _ = towers["clip"]()
        vision.num_labels = 5
        config = FlamingoConfig(vision_config=vision, text_config=text_configs["llama"](), **{**bridge, **fields})
        config._attn_implementation = "eager"
        torch.manual_seed(0)
        resampler = PerceiverResampler(config)
        for parameter in resampler.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.5)
        return resampler.eval()

    return made


def test_any_number_of_patches_becomes_the_same_number_of_latents(resampler):
    r = resampler(resampler_latents=7, resampler_width=8, resampler_depth=2)
    for patches in (1, 4, 9):
        assert r(torch.randn(2, 1, patches, WIDTH)).shape == (2, 7, 8)


def test_every_picture_is_resampled_by_itself(resampler):
    r = resampler(pooled_latents=True)
    pictures = torch.randn(3, 1, 4, WIDTH)
    torch.testing.assert_close(r(pictures), torch.cat([r(picture[None]) for picture in pictures]))


def test_without_positions_patches_have_no_order_and_with_them_they_do(resampler):
    patches = torch.randn(1, 1, 4, WIDTH)
    r = resampler()
    torch.testing.assert_close(r(patches), r(patches.flip(2)))
    r = resampler(resampler_positions=4)
    assert not torch.allclose(r(patches), r(patches.flip(2)), atol=1e-3)


def test_the_order_of_frames_matters_by_their_time_embeddings(resampler):
    clip = torch.randn(1, 3, 4, WIDTH)
    r = resampler(resampler_max_frames=3)
    assert not torch.allclose(r(clip), r(clip.flip(1)), atol=1e-3)
    with torch.no_grad():
        r.frame_positions.zero_()
    torch.testing.assert_close(r(clip), r(clip.flip(1)))


def test_fewer_frames_than_time_embeddings_use_the_first_ones(resampler):
    r = resampler(resampler_max_frames=4)
    clip = torch.randn(1, 2, 4, WIDTH)
    before = r(clip)
    with torch.no_grad():
        r.frame_positions[2:] = 9.0
    torch.testing.assert_close(r(clip), before)


def test_more_frames_than_time_embeddings_is_an_error_that_counts_both(resampler):
    with pytest.raises(ValueError, match=r"3 frames.*for 2"):
        resampler(resampler_max_frames=2)(torch.randn(1, 3, 4, WIDTH))


def test_standardised_features_are_what_the_statistics_make_of_them(resampler):
    patches = torch.randn(2, 1, 4, WIDTH) * 5 + 3
    plain, standardised = resampler(), resampler(standardise_features=True)
    standardised.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(standardised(patches), plain(patches))  # the statistics start as 0 and 1
    mean, std = patches.mean((0, 1, 2)), patches.std((0, 1, 2))
    standardised.feature_mean.data, standardised.feature_std.data = mean, std
    torch.testing.assert_close(standardised(patches), plain((patches - mean) / std))
    assert not standardised.feature_mean.requires_grad and not standardised.feature_std.requires_grad


def test_class_probabilities_enter_as_one_more_token(resampler):
    r = resampler(class_token=True)
    patches, logits = torch.randn(1, 1, 4, WIDTH), torch.randn(1, 1, 5)
    torch.testing.assert_close(r(patches, logits), r(patches, logits + 7))  # probabilities, not scores
    assert not torch.allclose(r(patches, logits), r(patches, logits.flip(-1) * 3), atol=1e-3)
    with pytest.raises(ValueError, match="class logits"):
        r(patches)


def test_pooled_features_and_class_probabilities_reach_every_latent(resampler):
    patches, logits = torch.randn(2, 3, 4, WIDTH), torch.randn(2, 3, 5)
    r = resampler(pooled_latents=True, resampler_depth=0)
    torch.testing.assert_close(r(patches), r.norm(r.latents + r.pool(patches.mean((1, 2)))[:, None]))
    r = resampler(class_token=True, resampler_depth=0)
    classes = r.class_norm(r.class_embedding(logits.softmax(-1))).mean(1, keepdim=True)
    torch.testing.assert_close(r(patches, logits), r.norm(r.latents + r.class_pool(classes)))


def test_dropout_runs_only_in_training(resampler):
    r = resampler(resampler_dropout=0.5)
    patches = torch.randn(1, 1, 4, WIDTH)
    torch.testing.assert_close(r(patches), r(patches))
    r.train()
    assert not torch.allclose(r(patches), r(patches), atol=1e-3)


def test_the_attention_of_a_layer_is_flamingos(resampler):
    """Keys and values are the features and then the latents themselves, each under its own norm (section 3.1.1)."""
    attention = resampler().layers[0].attention
    latents, media = torch.randn(1, 3, WIDTH), torch.randn(1, 5, WIDTH)
    normed = attention.norm_latents(latents)
    everything = torch.cat((attention.norm_media(media), normed), dim=1)
    keys, values = attention.to_kv(everything)[0].view(8, 2, attention.heads, -1).unbind(1)
    queries = attention.to_q(normed)[0].view(3, attention.heads, -1)
    scores = torch.einsum("ihd,jhd->hij", queries, keys) * 4**-0.5
    heads = torch.einsum("hij,jhd->ihd", scores.softmax(-1), values)
    torch.testing.assert_close(attention(latents, media)[0], attention.to_out(heads.flatten(1)))
