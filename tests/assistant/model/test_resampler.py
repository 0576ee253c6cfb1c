import math

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


@pytest.mark.parametrize("width", [None, 8], ids=["as it is", "projected"])
def test_standardising_is_folded_into_the_projection(resampler, width):
    r = resampler(standardise_features=True, resampler_width=width)
    generator = torch.Generator().manual_seed(1)
    r.feature_mean.data, r.feature_std.data = (torch.rand(WIDTH, generator=generator) * 3 + 0.2 for _ in range(2))
    patches = (torch.rand(2, 3, 4, WIDTH, generator=generator) * 6).half()  # as they are kept

    def explicit():
        return r.project((patches.float() - r.feature_mean) / r.feature_std)

    torch.testing.assert_close(r.project_features(patches), explicit(), atol=1e-5, rtol=1e-5)
    if width:
        folded, plain = (
            torch.autograd.grad(f.square().sum(), list(r.project.parameters()), retain_graph=True)
            for f in (r.project_features(patches), explicit())
        )
        torch.testing.assert_close(folded, plain, atol=1e-2, rtol=1e-5)


def cell_means(media, grid):
    """[I, P, W] -> [I, G * G, W], cell by cell, row by row."""
    side = round(media.shape[1] ** 0.5)
    maps = media.unflatten(1, (side, side))
    edges = [(math.floor(i * side / grid), math.ceil((i + 1) * side / grid)) for i in range(grid)]
    return torch.stack([maps[:, a:b, c:d].mean((1, 2)) for a, b in edges for c, d in edges], dim=1)


@pytest.mark.parametrize("side", [4, 3, 2])
def test_the_first_latents_start_from_the_cells_of_a_grid(resampler, side):
    r = resampler(resampler_grid=2, resampler_latents=5, resampler_width=8, resampler_depth=0)
    patches = torch.randn(2, 3, side * side, WIDTH)
    cells = r.local(cell_means(r.project(patches).mean(1), 2))
    start = r.latents + torch.nn.functional.pad(cells, (0, 0, 0, 1))  # and the fifth from none
    torch.testing.assert_close(r(patches), r.norm(start))


def test_a_patch_of_a_cell_moves_that_latent_alone(resampler):
    r = resampler(resampler_grid=2, resampler_latents=6, resampler_depth=0, resampler_positions=16)
    patches = torch.randn(1, 1, 16, WIDTH)
    for place, latent in [(0, 0), (2, 1), (7, 1), (8, 2), (13, 2), (10, 3)]:
        other = patches.clone()
        other[:, :, place] += 1
        assert (r(other) != r(patches)).any(-1)[0].nonzero().flatten().tolist() == [latent]


def test_without_a_grid_nothing_changes(resampler):
    patches = torch.randn(2, 1, 4, WIDTH)
    plain, none, grid = resampler(), resampler(resampler_grid=0), resampler(resampler_grid=1)
    assert plain.state_dict().keys() == none.state_dict().keys() == grid.state_dict().keys() - {"local.weight"}
    assert torch.equal(none(patches), plain(patches))
    grid.load_state_dict(plain.state_dict(), strict=False)
    assert not torch.allclose(grid(patches), plain(patches), atol=1e-3)
    with torch.no_grad():
        grid.local.weight.zero_()
    torch.testing.assert_close(grid(patches), plain(patches))


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


def test_dropout_runs_only_in_training_and_on_projected_features(resampler):
    r = resampler(resampler_dropout=0.5, resampler_width=8)
    patches = torch.randn(1, 1, 4, WIDTH)
    torch.testing.assert_close(r(patches), r(patches))
    r.train()
    assert not torch.allclose(r(patches), r(patches), atol=1e-3)
    dropped = []
    r.dropout.register_forward_pre_hook(lambda module, arguments: dropped.append(arguments[0]))
    r(patches)
    assert torch.equal(dropped[0], r.project_features(patches))


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
