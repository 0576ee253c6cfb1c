import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from assistant.model.assembly import is_adapter_key
from training.bridge.lessons import LESSON_KINDS
from training.bridge.loss import BridgeLoss, info_nce


@pytest.fixture
def loss(seeing_model):
    """The loss of a model whose pictures change the text, without anything random."""
    torch.manual_seed(0)
    return BridgeLoss(seeing_model(), contrastive_weight=0.5, logit_noise=0.0).eval()


@pytest.fixture
def batch(sampler, pools):
    """Draw a batch of six lessons."""
    return lambda kind="naming", form="plain": sampler().draw(kind, form, 6, pools[0], step=3)


@pytest.fixture
def mixed(sampler, pools):
    """The longest batch of a step with lessons of several kinds."""
    lessons = {"naming": 3, "scene": 2, "ordinal": 2, "rule": 2}
    return lambda form="plain": sampler().draw_step(lessons, form, pools[0], step=3)[-1]


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


@pytest.mark.parametrize("kind", ["naming", "binding", "ordinal"])
def test_the_contrastive_loss_compares_mean_latents_with_mean_words(loss, batch, kind):
    batch = batch(kind)
    assert len(batch.names.unique()) < len(batch.names)
    latents = loss.latents(batch.patches, batch.logits)
    embedding = loss.model.get_input_embeddings().weight
    words = [embedding[caption[caption >= 0]].mean(0) - embedding.mean(0) for caption in batch.captions]
    words = F.normalize(torch.stack(words), dim=-1)
    images = F.normalize(loss.image_head(latents.mean(1)), dim=-1)
    expected = info_nce_by_hand(images.tolist(), words.tolist(), batch.names.tolist(), math.exp(2.3))
    got = loss.contrastive_loss(latents, batch.names, batch.captions).item()
    assert got == pytest.approx(expected, abs=1e-4)


def keep(batch, kept):
    """A batch with some of its pictures."""
    pictures = ("patches", "logits", "names", "captions")
    return dataclasses.replace(batch, **{key: getattr(batch, key)[kept] for key in pictures})


def test_the_contrastive_loss_leaves_out_pictures_without_a_name(loss, batch):
    whole = batch("binding")
    named = torch.arange(len(whole.names)) % 3 != 1
    some = dataclasses.replace(
        whole,
        names=torch.where(named, whole.names, -1),
        captions=torch.where(named.unsqueeze(1), whole.captions, -1),
    )
    rest = keep(whole, named)
    expected = loss.contrastive_loss(loss.latents(rest.patches, rest.logits), rest.names, rest.captions)
    got = loss.contrastive_loss(loss.latents(some.patches, some.logits), some.names, some.captions)
    torch.testing.assert_close(got, expected)
    assert expected > 0


@pytest.mark.parametrize("named", [0, 1])
def test_fewer_than_two_names_have_no_contrastive_loss(loss, batch, named):
    scene = batch("scene")
    assert (scene.names == -1).all()
    scene.names[:named], scene.captions[:named] = 0, 7
    losses = loss(scene)
    assert losses.contrastive.item() == 0.0 and torch.equal(losses.total, losses.text)


PICTURES = [("naming", 1), ("ordinal", 2), ("rule", 3), ("binding", 4)]


def numbers_of(batch, loss):
    """How many pictures each row has."""
    return (batch.input_ids == loss.model.config.image_token_id).sum(1).tolist()


@pytest.mark.parametrize(("kind", "most"), PICTURES)
def test_the_text_loss_is_that_of_transformers_for_answers_instead_of_tokens(loss, batch, kind, most):
    batch = batch(kind)
    latents = loss.latents(batch.patches, batch.logits)
    assert len(batch.prefix) == 0
    rows = latents.split(numbers_of(batch, loss))
    assert max(map(len, rows)) >= most
    handed = torch.stack([F.pad(row, (0, 0, 0, 0, 0, max(map(len, rows)) - len(row))) for row in rows])
    output = loss.model(input_ids=batch.input_ids, labels=batch.labels, image_latents=handed)
    tokens, answers = int((batch.labels != -100).sum()), int(batch.answers.sum())
    assert tokens > answers >= 6
    torch.testing.assert_close(loss.text_losses(batch, latents).sum(), output.loss * tokens)
    torch.testing.assert_close(loss(batch).text, output.loss * tokens / answers)


def one_by_one(whole, loss):
    """Every row alone, as a batch."""
    start = 0
    for i, number in enumerate(numbers_of(whole, loss)):
        alone = keep(whole, slice(start, start + number))
        start += number
        row = slice(i, i + 1)
        yield dataclasses.replace(
            alone, kinds=whole.kinds[row], input_ids=whole.input_ids[row], labels=whole.labels[row]
        )


@torch.no_grad()
@pytest.mark.parametrize(("kind", "most"), [*PICTURES, ("mixed", 2)])
@pytest.mark.parametrize("form", ["plain", "chat"])
def test_a_batch_is_its_rows_one_by_one(loss, batch, mixed, kind, most, form):
    """No row sees a picture of another: the loss is the mean over the answers, of each row alone."""
    whole = mixed(form) if kind == "mixed" else batch(kind, form)
    numbers = numbers_of(whole, loss)
    assert sum(numbers) == len(whole.patches) and max(numbers) >= most
    rows = [loss(alone).text * alone.answers.sum() for alone in one_by_one(whole, loss)]
    got = loss.text_losses(whole, loss.latents(whole.patches, whole.logits))
    torch.testing.assert_close(got, torch.stack(rows), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss(whole).text, sum(rows) / whole.answers.sum(), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_text_loss_is_also_told_by_kind(loss, mixed):
    batch = mixed()
    assert len(batch.kinds.unique()) > 1
    expected = {}
    for alone in one_by_one(batch, loss):
        kind = LESSON_KINDS[alone.kinds.item()]
        total, answers = expected.get(kind, (0.0, 0))
        number = alone.answers.item()
        expected[kind] = (total + loss(alone).text.item() * number, answers + number)
    got = loss(batch).by_kind
    assert got.keys() == expected.keys()
    for kind, (total, answers) in got.items():
        assert (pytest.approx(total, rel=1e-4), answers) == expected[kind]


@torch.no_grad()
def test_a_picture_moves_its_own_row_alone(loss, batch):
    whole = batch("ordinal", "chat")
    numbers = numbers_of(whole, loss)
    start, stop = sum(numbers[:2]), sum(numbers[:3])
    other = dataclasses.replace(whole, patches=whole.patches.clone())
    other.patches[start:stop] = other.patches[start:stop].flip(-1)
    logits = []
    for one in (whole, other):
        handed = loss.model.model.hand_out(loss.latents(one.patches, one.logits), one.input_ids)
        logits.append(loss.model(input_ids=one.input_ids, image_latents=handed).logits)
    assert (logits[0] != logits[1]).flatten(1).any(1).tolist() == [i == 2 for i in range(6)]


def test_the_parts_make_the_total(loss, batch):
    losses = loss(batch())
    torch.testing.assert_close(losses.total, losses.text + 0.5 * losses.contrastive)
    assert losses.contrastive > 0


@pytest.mark.parametrize(("kind", "training"), [("naming", False), ("naming", True), ("ordinal", True)])
def test_a_shared_prefix_is_the_prefix_written_out(loss, batch, kind, training):
    shared = batch(kind, "chat")
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
    assert one == pytest.approx(other, rel=1e-6)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-5, rtol=1e-3)


@torch.no_grad()
def test_a_shared_prefix_is_computed_once(loss, batch, monkeypatch):
    shared = batch("naming", "chat")
    first = loss(shared).text
    asked = []
    model = loss.model.model.language_model
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda **options: (asked.append(tuple(options["input_ids"].shape)), forward(**options))[1]
    )
    assert torch.equal(loss(shared).text, first)
    assert asked == [tuple(shared.input_ids.shape)]


def test_a_shared_prefix_carries_no_gradient(loss, batch):
    cache = loss.prefix_cache(batch("naming", "chat").prefix, 6)
    assert all(not layer.keys.requires_grad and len(layer.keys) == 6 for layer in cache.layers if layer.is_initialized)
    assert loss.prefix_cache(torch.tensor([], dtype=torch.long), 6) is None


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_padding_changes_nothing(loss, batch, form):
    short = batch("rule", form)
    longer = dataclasses.replace(
        short, input_ids=F.pad(short.input_ids, (0, 4)), labels=F.pad(short.labels, (0, 4), value=-100)
    )
    torch.testing.assert_close(loss(short).text, loss(longer).text)


def bridge_of(loss):
    """Names of the weights that an adapter trains."""
    return {f"model.{n}" for n, _ in loss.model.named_parameters() if is_adapter_key(n) and "feature_" not in n}


@pytest.mark.parametrize("kind", ["naming", "binding", "ordinal"])
def test_only_the_bridge_and_the_projection_learn(loss, batch, kind):
    _, grads = gradients(loss.train(), batch(kind, "chat"))
    assert set(grads) == bridge_of(loss) | {"image_head.weight", "image_head.bias", "logit_scale"}
    still = [name for name, gradient in grads.items() if not gradient.abs().sum() > 0]
    assert not still


def test_a_frozen_resampler_gets_no_gradient(loss, batch):
    losses = loss.train()(batch("naming", "chat"), freeze_resampler=True)
    assert losses.contrastive.item() == 0.0 and torch.equal(losses.total, losses.text)
    losses.total.backward()
    learned = {name for name, p in loss.named_parameters() if p.grad is not None}
    assert learned == {name for name in bridge_of(loss) if ".gated_cross_attention." in name}


def test_a_step_leaves_the_frozen_parts_alone(loss, batch):
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in loss.parameters() if p.requires_grad], lr=0.1)
    loss.train()(batch("photo_naming", "chat")).total.backward()
    optimizer.step()
    changed = {name for name, value in loss.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == bridge_of(loss) | {"image_head.weight", "image_head.bias", "logit_scale"}


def test_a_look_reads_names_and_scenes_without_the_language_model(loss, sampler, pools, monkeypatch):
    look = sampler().draw_look(4, pools[0], step=3)
    monkeypatch.setattr(loss.model.model.language_model, "forward", None)
    latents = loss.latents(look.patches, look.logits)
    seen = loss.look(look)
    torch.testing.assert_close(seen["contrastive"], loss.contrastive_loss(latents[:4], look.names, look.captions))
    features = loss.model.model.resampler.project_features(look.patches[4:, 0])
    torch.testing.assert_close(seen["scene"], loss.scene_head(latents[4:], features, look.truth))
    (seen["contrastive"] + seen["scene"]).backward()
    learned = {name for name, p in loss.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    heads = {n for n, _ in loss.named_parameters() if n.startswith(("image_head.", "scene_head."))} | {"logit_scale"}
    resampler = {name for name in bridge_of(loss) if name.startswith("model.model.resampler.")}
    assert resampler | heads == learned


def test_without_a_weight_the_contrastive_loss_is_left_out(seeing_model, batch):
    loss = BridgeLoss(seeing_model(), contrastive_weight=0.0, logit_noise=0.0).train()
    losses = loss(batch())
    assert losses.contrastive.item() == 0.0 and torch.equal(losses.total, losses.text)
    losses.total.backward()
    assert all(p.grad is None for p in loss.image_head.parameters()) and loss.logit_scale.grad is None


@pytest.mark.parametrize("kind", ["naming", "ordinal"])
def test_swapped_puts_every_picture_in_the_place_of_the_next(loss, batch, kind):
    batch = batch(kind)
    moved = dataclasses.replace(batch, patches=batch.patches.roll(1, 0), logits=batch.logits.roll(1, 0))
    assert torch.equal(moved.patches[1], batch.patches[0])
    swapped = loss(batch, swapped=True).text
    torch.testing.assert_close(swapped, loss(moved).text)
    assert abs(swapped - loss(batch).text) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 7, 8, 9, 20])
def test_latents_do_not_depend_on_how_many_pictures_there_are(loss, cache, count):
    patches, logits = (value.unsqueeze(1) for value in cache.read(np.arange(20), np.zeros(20, int)))
    latents = loss.latents(patches[:count], logits[:count])
    torch.testing.assert_close(latents, loss.model.model.resampler(patches, logits)[:count], rtol=1e-4, atol=1e-5)


def test_noise_is_for_training_and_for_class_logits(seeing_model, batch, monkeypatch):
    loss = BridgeLoss(seeing_model(), 0.0, logit_noise=2.0)
    batch = batch()
    seen = []
    resampler = loss.model.model.resampler
    monkeypatch.setattr(resampler, "forward", lambda patches, logits: seen.append((patches, logits)) or logits)

    def shown():
        seen.clear()
        loss.latents(batch.patches, batch.logits)
        return [torch.cat(values)[: len(batch.patches)] for values in zip(*seen, strict=True)]

    loss.eval()
    assert all(map(torch.equal, shown(), (batch.patches, batch.logits)))
    loss.train()
    noise = []
    for _ in range(200):
        patches, logits = shown()
        assert torch.equal(patches, batch.patches)
        noise.append(logits - batch.logits)
    assert torch.stack(noise).std().item() == pytest.approx(2.0, rel=0.05)
    assert torch.stack(noise).mean().item() == pytest.approx(0.0, abs=0.1)
