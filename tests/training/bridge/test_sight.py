import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from training.bridge.sight import SceneHead, truth_of
from training.data.scenes import COLOURS, Thing

NAMES = list(COLOURS)


def thing(colour, box, kind="cat"):
    return Thing(kind, "a", kind, colour, box)


SCENES = [
    [thing("red", (0.1, 0.2, 0.3, 0.6))],
    [thing("blue", (0.0, 0.0, 0.2, 0.2)), thing("blue", (0.5, 0.5, 0.7, 0.7))],
    [thing("red", (0.0, 0.5, 0.4, 0.7)), thing("grey", (0.6, 0.0, 1.0, 0.4), "dog")],
]


def test_the_truth_says_which_colours_there_are():
    present = truth_of(SCENES, 5).present
    shown = [{NAMES[i] for i in row.nonzero().flatten().tolist()} for row in present]
    assert shown == [{"red"}, {"blue"}, {"red", "grey"}]
    assert set(present.unique().tolist()) == {0.0, 1.0}


def test_the_truth_says_where_the_only_thing_of_a_colour_is():
    place = truth_of(SCENES, 5).place
    known = {(i, NAMES[j]) for i, j in (~place.isnan()).all(-1).nonzero().tolist()}
    assert known == {(0, "red"), (2, "red"), (2, "grey")}  # and of two blue things neither
    torch.testing.assert_close(place[0, NAMES.index("red")], torch.tensor([0.2, 0.4, 0.4]))
    torch.testing.assert_close(place[2, NAMES.index("grey")], torch.tensor([0.8, 0.2, 0.4]))


def test_the_truth_counts_things_that_are_alike():
    assert truth_of(SCENES, 5).number.tolist() == [0, 1, -100]


def test_the_truth_says_what_stands_at_every_patch():
    """Row by row; a patch shows a thing where its middle does."""
    patches = truth_of(SCENES, 4).patches
    signs = {NAMES.index("red"): "r", NAMES.index("blue"): "b", NAMES.index("grey"): "g", len(NAMES): "."}
    maps = [[signs[number] for number in row] for row in patches.tolist()]
    assert maps == [[*"....r..........."], [*"b.........b....."], [*"..gg..ggrr......"]]


corners = st.tuples(*[st.floats(0, 1)] * 2).map(sorted)
boxes = st.tuples(corners, corners).map(lambda xy: (xy[0][0], xy[1][0], xy[0][1], xy[1][1]))


@given(st.lists(st.tuples(st.sampled_from(NAMES), boxes), max_size=4), st.integers(1, 5))
def test_a_patch_has_the_colour_of_the_last_thing_drawn_over_its_middle(drawn, side):
    [patches] = truth_of([[thing(*one) for one in drawn]], side).patches
    for place, number in enumerate(patches.tolist()):
        x, y = (place % side + 0.5) / side, (place // side + 0.5) / side
        there = [
            NAMES.index(colour) for colour, (left, top, right, bottom) in drawn if left < x < right and top < y < bottom
        ]
        assert number == (there or [len(NAMES)])[-1]


def test_scenes_are_taken_by_their_rows():
    truth = truth_of(SCENES, 5)
    some = truth[torch.tensor([2, 0, 2])]
    assert some.number.tolist() == [-100, 0, -100]
    assert torch.equal(some.present, truth.present[[2, 0, 2]]) and some.place.shape == (3, 11, 3)
    assert torch.equal(some.patches, truth.patches[[2, 0, 2]])
    assert {value.device.type for value in vars(truth.to(torch.device("meta"))).values()} == {"meta"}


@pytest.fixture
def head():
    torch.manual_seed(0)
    return SceneHead(16, heads=2)


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_loss_is_the_sum_over_colours_number_and_patches(head):
    truth = truth_of(SCENES, 5)
    latents, features = randn(3, 4, 16), randn(3, 25, 16, seed=2)
    total, patches, weight = 0.0, 0.0, 0.0
    for i, scene in enumerate(SCENES):
        queries = head.queries.unsqueeze(0)
        found = head.attention(queries, latents[i : i + 1], latents[i : i + 1])[0][0]
        for j, colour in enumerate(NAMES):
            there, *place = head.thing(found[j]).tolist()
            of_it = [thing for thing in scene if thing.colour == colour]
            total += math.log(1 + math.exp(-there if of_it else there))
            if len(of_it) == 1:
                wanted = [*of_it[0].centre, of_it[0].size]
                total += 4 * sum(abs(1 / (1 + math.exp(-p)) - w) for p, w in zip(place, wanted, strict=True))
        if len({thing.object for thing in scene}) == 1:
            total += F.cross_entropy(head.number(found[-1]), torch.tensor(len(scene) - 1)).item()
        for read, colour in zip(head.patch(features[i]), truth.patches[i], strict=True):
            share = 0.2 if colour == len(NAMES) else 1.0  # most patches show no thing
            patches += share * F.cross_entropy(read, colour).item()
            weight += share
    assert head(latents, features, truth).item() == pytest.approx(total / 3 + patches / weight, rel=1e-4)


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0.01, 0.01, 0.02, 0.02)], ids=["everywhere", "nowhere"])
def test_scenes_that_say_nothing_more_still_have_a_gradient(head, box):
    """Neither a place nor a number is known, and all patches are alike."""
    truth = truth_of([[thing("red", box), thing("red", box, "dog")]], 5)
    assert len(truth.patches.unique()) == 1
    loss = head(torch.randn(1, 4, 16), torch.randn(1, 25, 16), truth)
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in head.parameters())


def test_a_scene_is_read_from_its_own_latents_and_features(head):
    truth = truth_of(SCENES, 5)
    optimizer = torch.optim.Adam(head.parameters(), lr=2e-2)
    latents, features = randn(3, 4, 16), randn(3, 25, 16, seed=2)
    for _ in range(150):
        optimizer.zero_grad()
        loss = head(latents, features, truth)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5
    assert head(latents.roll(1, 0), features, truth).item() > 3 * loss.item()
    assert head(latents, features.roll(1, 0), truth).item() > 3 * loss.item()
