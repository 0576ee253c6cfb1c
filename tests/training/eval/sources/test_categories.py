from collections import Counter, defaultdict
from pathlib import Path

import pytest

from training.data.rows import read_table
from training.eval.sources import categories as module
from training.eval.sources.categories import categories

GROUP = dict(read_table(module._TABLE))


def test_every_photograph_has_a_group(photographs):
    ids = {item.query.id for which in ("dev", "test") for item in photographs(which, 0)}
    assert len(ids) == 57 and set(GROUP) == ids


@pytest.mark.parametrize(("which", "each", "asked"), [("dev", 4, 12), ("dev", 3, 16), ("test", 4, 16), ("test", 3, 24)])
def test_two_groups_with_names_that_say_nothing(photographs, which, each, asked):
    of_file = {item.query.pictures: GROUP[item.query.id] for item in photographs(which, 0)}
    items = categories(which, 0, each)
    assert len({item.query.pictures for item in items}) == asked
    names = defaultdict(set)
    for item in items:
        meant = {}
        for example in item.pool:
            assert meant.setdefault(example.balance, of_file[example.pictures]) == of_file[example.pictures]
            assert example.answer == f"A {example.balance}."
        counts = Counter(example.balance for example in item.pool)
        assert len(counts) == 2 and len(set(counts.values())) == 1 and min(counts.values()) >= each
        assert meant[item.query.accept[0]] == of_file[item.query.pictures] == item.query.kind
        assert set(item.query.choices) == set(meant) and not set(meant) & set(GROUP.values())
        assert item.query.pictures not in [example.pictures for example in item.pool]
        assert len({example.pictures for example in item.pool}) == len(item.pool)
        names[item.query.kind].add(item.query.accept[0])
    assert all(len(used) > 10 for used in names.values())  # no name stays with a group


def test_the_same_seed_gives_the_same_items(photographs):
    assert categories("dev", 0) == categories("dev", 0) != categories("dev", 1)


def test_dev_and_test_share_no_photograph(photographs):
    def shown(which):
        return {
            file for item in categories(which, 0) for example in (item.query, *item.pool) for file in example.pictures
        }

    assert shown("dev") and not shown("dev") & shown("test")
    assert Path("dev/owl.webp") in shown("dev")
