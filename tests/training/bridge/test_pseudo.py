import pytest
import torch

from training.bridge.pseudo import push_towards_classes

CLASSES = torch.tensor([0, 3, 4, 4, 1, 2, 0, 3])


@pytest.fixture
def classifier():
    """Weight [5, 12] and bias [5], which make some classes hard to reach."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 12, generator=generator), torch.randn(5, generator=generator)


@pytest.fixture
def maps():
    """Eight maps of 5 x 5 patches."""
    return torch.rand(8, 25, 12, generator=torch.Generator().manual_seed(1)) * 2


@pytest.fixture
def push(maps, classifier):
    def pushed(seed=0, **options):
        return push_towards_classes(maps, CLASSES, *classifier, torch.Generator().manual_seed(seed), **options)

    return pushed


def share(logits):
    return logits.softmax(-1)[torch.arange(8), CLASSES]


def test_the_class_gains(maps, classifier, push):
    weight, bias = classifier
    photographs, faded = share(push()[1]), share(push(steps=0)[1])
    assert (photographs >= faded).all()
    assert photographs.mean() > share(maps.mean(1) @ weight.T + bias).mean() + 0.2


def test_more_steps_go_further_and_none_only_fades(maps, push):
    none, six = push(steps=0), push(steps=6)
    assert share(six[1]).mean() > share(push(steps=2)[1]).mean() > share(none[1]).mean()
    assert (none[0] <= maps).all()


def test_what_is_sure_enough_is_pushed_no_further(push):
    (sixth, logits), seventh, last = push(steps=6), push(steps=7)[0], push(steps=60)[0]
    done = (sixth == seventh).flatten(1).all(1)
    assert done.any() and not done.all()
    assert (share(logits)[done] > 0.05).all()  # a random share, but never next to none
    assert share(logits)[done].min() < 0.9
    assert torch.equal(sixth[done], last[done])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_stopping_early_gives_what_all_steps_give(maps, classifier, monkeypatch, seed):
    reached = torch.tensor([1, 4, 5, 7])  # classes that are easy to reach

    def pushed(steps):
        generator = torch.Generator().manual_seed(seed)
        result = push_towards_classes(maps[reached], CLASSES[reached], *classifier, generator, steps=steps)
        return *result, generator.get_state()

    faded, early = pushed(0), pushed(40)
    assert torch.equal(early[2], pushed(20)[2])  # no more was drawn: it had stopped
    assert not torch.equal(early[0], faded[0])
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "any", lambda self: torch.tensor(True))  # never stop
        full = pushed(40)
    assert not torch.equal(early[2], full[2])
    assert torch.equal(early[0], full[0]) and torch.equal(early[1], full[1])


@pytest.mark.parametrize("ceiling", [6.0, 1.0])
def test_features_stay_in_range(push, ceiling):
    patches, _ = push(ceiling=ceiling)
    assert patches.min() >= 0 and patches.max() <= ceiling


def test_the_logits_are_the_classifiers_own(classifier, push):
    weight, bias = classifier
    patches, logits = push()
    assert patches.shape == (8, 25, 12) and logits.shape == (8, 5)
    torch.testing.assert_close(logits, patches.mean(1) @ weight.T + bias)


def test_the_generator_decides_everything(push):
    torch.manual_seed(0)
    first = push(seed=5)
    torch.manual_seed(1)
    assert all(map(torch.equal, first, push(seed=5)))
    assert not torch.equal(first[0], push(seed=6)[0])


def test_what_went_in_is_left_as_it_was(maps, push):
    before = maps.clone()
    push()
    assert torch.equal(maps, before)
