import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from assistant.model.assembly import is_adapter_key
from training.bridge.loss import BridgeLoss, info_nce

ROWS = np.arange(10)


@pytest.fixture
def loss(seeing_model):
    """The loss of a model whose pictures change the text, without anything random."""
    torch.manual_seed(0)
    return BridgeLoss(seeing_model(), contrastive_weight=0.5, feature_noise=0.0, logit_noise=0.0).eval()


@pytest.fixture
def batch(sampler):
    """Draw a batch of six."""
    return lambda kind="caption": sampler().draw(kind, 6, step=3, rows=ROWS)


def gradients(loss, batch):
    loss.zero_grad()
    total = loss(batch).total
    total.backward()
    return total.item(), {name: p.grad.clone() for name, p in loss.named_parameters() if p.grad is not None}


def info_nce_by_hand(first, second, names, scale):
    """One row and one column at a time; rows of the same name are no negatives of each other."""
    total = 0.0
    for left, right in ((first, second), (second, first)):
        for i in range(len(names)):
            others = [j for j in range(len(names)) if j == i or names[j] != names[i]]
            scores = [scale * sum(a * b for a, b in zip(left[i], right[j], strict=True)) for j in others]
            total += math.log(sum(map(math.exp, scores))) - scores[others.index(i)]
    return total / (2 * len(names))


@pytest.mark.parametrize("names", [[0, 1, 2, 3, 4], [0, 1, 0, 2, 1], [0, 0, 0, 0, 0]])
def test_the_contrastive_loss_is_the_formula(names):
    torch.manual_seed(1)
    first, second = (F.normalize(torch.randn(5, 4), dim=-1) for _ in range(2))
    got = info_nce(first, second, torch.tensor(names), torch.tensor(3.0))
    assert got.item() == pytest.approx(info_nce_by_hand(first.tolist(), second.tolist(), names, 3.0), abs=1e-5)


def test_the_contrastive_loss_compares_mean_latents_with_mean_words(loss, batch):
    batch = batch()
    latents = loss.latents(batch)
    embedding = loss.model.get_input_embeddings().weight
    words = [embedding[caption[caption >= 0]].mean(0) - embedding.mean(0) for caption in batch.captions]
    words = F.normalize(torch.stack(words), dim=-1)
    images = F.normalize(loss.image_head(latents.mean(1)), dim=-1)
    expected = info_nce_by_hand(images.tolist(), words.tolist(), batch.names.tolist(), math.exp(2.3))
    assert loss.contrastive_loss(batch, latents).item() == pytest.approx(expected, abs=1e-4)


def test_the_text_loss_is_that_of_transformers(loss, batch):
    batch = batch("caption")
    latents = loss.latents(batch)
    assert len(batch.prefix) == 0
    output = loss.model(input_ids=batch.input_ids, labels=batch.labels, image_latents=latents.unsqueeze(1))
    torch.testing.assert_close(loss.text_loss(batch, latents), output.loss)


def test_the_parts_make_the_total(loss, batch):
    losses = loss(batch())
    torch.testing.assert_close(losses.total, losses.text + 0.5 * losses.contrastive)
    assert losses.contrastive > 0


@pytest.mark.parametrize("training", [False, True])
def test_a_shared_prefix_is_the_prefix_written_out(loss, batch, training):
    shared = batch("chat")
    for module in loss.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    loss.train(training)
    rows, prefix = len(shared.input_ids), shared.prefix
    written = dataclasses.replace(
        shared,
        prefix=prefix[:0],
        input_ids=torch.cat((prefix.expand(rows, -1), shared.input_ids), dim=1),
        labels=torch.cat((torch.full((rows, len(prefix)), -100), shared.labels), dim=1),
    )
    (one, first), (other, second) = gradients(loss, shared), gradients(loss, written)
    assert len(prefix) > 0
    assert one == pytest.approx(other, abs=1e-5)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-5, rtol=1e-3)


def test_a_shared_prefix_carries_no_gradient(loss, batch):
    cache = loss.prefix_cache(batch("chat").prefix, 6)
    assert all(not layer.keys.requires_grad and len(layer.keys) == 6 for layer in cache.layers if layer.is_initialized)
    assert loss.prefix_cache(torch.tensor([], dtype=torch.long), 6) is None


@pytest.mark.parametrize("kind", ["caption", "chat"])
def test_padding_changes_nothing(loss, batch, kind):
    short = batch(kind)
    longer = dataclasses.replace(
        short, input_ids=F.pad(short.input_ids, (0, 4)), labels=F.pad(short.labels, (0, 4), value=-100)
    )
    torch.testing.assert_close(loss(short).text, loss(longer).text)


@pytest.mark.parametrize("kind", ["caption", "photo_chat"])
def test_only_the_bridge_and_the_projection_learn(loss, batch, kind):
    _, grads = gradients(loss.train(), batch(kind))
    wanted = {f"model.{n}" for n, _ in loss.model.named_parameters() if is_adapter_key(n) and "feature_" not in n}
    assert set(grads) == wanted | {"image_head.weight", "image_head.bias", "logit_scale"}
    still = [name for name, gradient in grads.items() if not gradient.abs().sum() > 0]
    assert not still


def test_a_step_leaves_the_frozen_parts_alone(loss, batch):
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in loss.parameters() if p.requires_grad], lr=0.1)
    loss.train()(batch("photo_chat")).total.backward()
    optimizer.step()
    changed = {name for name, value in loss.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name, parameter in loss.named_parameters() if parameter.requires_grad}


def test_without_a_weight_the_contrastive_loss_is_left_out(seeing_model, batch):
    loss = BridgeLoss(seeing_model(), contrastive_weight=0.0, feature_noise=0.0, logit_noise=0.0).train()
    losses = loss(batch())
    assert losses.contrastive.item() == 0.0 and torch.equal(losses.total, losses.text)
    losses.total.backward()
    # what waits for gradients on many processes waits for these alone
    assert all(p.grad is not None for p in loss.parameters() if p.requires_grad)


def test_swapped_hands_every_row_the_picture_of_the_row_before(loss, batch):
    batch = batch()
    moved = dataclasses.replace(batch, patches=batch.patches.roll(1, 0), logits=batch.logits.roll(1, 0))
    assert torch.equal(moved.patches[1], batch.patches[0])
    swapped = loss(batch, swapped=True).text
    torch.testing.assert_close(swapped, loss(moved).text)
    assert abs(swapped - loss(batch).text) > 1e-3


def test_noise_is_for_training_and_in_units_of_each_channel(seeing_model, batch, monkeypatch):
    loss = BridgeLoss(seeing_model(), 0.0, feature_noise=0.5, logit_noise=2.0)
    with torch.no_grad():
        loss.model.model.resampler.feature_std.copy_(torch.arange(1.0, 13.0))
    batch = batch()
    seen = []
    monkeypatch.setattr(loss.model.model.resampler, "forward", lambda patches, logits: seen.append((patches, logits)))
    loss.eval().latents(batch)
    assert torch.equal(seen[0][0], batch.patches) and torch.equal(seen[0][1], batch.logits)
    loss.train()
    for _ in range(200):
        loss.latents(batch)
    patches, logits = (torch.stack(x) for x in zip(*seen[1:], strict=True))
    torch.testing.assert_close(
        (patches - batch.patches).flatten(0, -2).std(0), torch.arange(1.0, 13.0) / 2, rtol=0.05, atol=0
    )
    assert (logits - batch.logits).std().item() == pytest.approx(2.0, rel=0.05)


def test_without_standardised_features_noise_is_in_units_of_all_features(assembled, batch, monkeypatch):
    model = assembled(standardise_features=False)[0]
    loss = BridgeLoss(model, 0.0, feature_noise=0.5, logit_noise=0.0).train()
    batch = batch()
    seen = []
    monkeypatch.setattr(model.model.resampler, "forward", lambda patches, logits: seen.append(patches))
    for _ in range(50):
        loss.latents(batch)
    noise = torch.stack(seen) - batch.patches
    assert noise.std().item() == pytest.approx(batch.patches.std().item() / 2, rel=0.05)
