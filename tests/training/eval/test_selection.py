from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.errors import InputError
from training.eval.items import Example, Item
from training.eval.selection import choose, stable_rng

QUERY = Example("query", (Path("q.png"),), "What?", "a")


EXPECTED = [330, 208, 24, 196]


def pool_of(*groups):
    """Examples "0", "1", ... that belong to these groups."""
    return tuple(Example(str(i), (Path(f"{i}.png"),), "What?", group) for i, group in enumerate(groups))


def chosen(item, shots, select="random", per_answer=False, seed=0, similarity=None):
    return choose(item, shots, select, per_answer, stable_rng("test", seed), similarity)


def near(example, query):
    return -abs(int(example.id) - 3.1)


def test_the_same_words_give_the_same_numbers():
    # written out, since they must not change from one machine or release to the next
    assert stable_rng("naming", "cow", 4, 0).integers(1000, size=4).tolist() == EXPECTED
    assert stable_rng("a", "b").random() != stable_rng("ab").random()


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.data())
def test_demonstrations_are_different_examples_of_the_pool(groups, data):
    item = Item(QUERY, pool_of(*groups))
    shots = data.draw(st.integers(0, len(groups)))
    for select in ("random", "balanced", "similar"):
        demos = chosen(item, shots, select, similarity=near)
        assert len(demos) == len({demo.id for demo in demos}) == shots
        assert set(demos) <= set(item.pool)
        assert demos == chosen(item, shots, select, similarity=near)


@given(st.integers(0, 12), st.integers(0, 100))
def test_balanced_means_equal_numbers(shots, seed):
    item = Item(QUERY, pool_of(*"aaaabbbbcccc"))
    counts = Counter(demo.answer for demo in chosen(item, shots, "balanced", seed=seed))
    assert sum(counts.values()) == shots
    assert max(counts.values(), default=0) - min((counts[g] for g in "abc"), default=0) <= 1


def test_a_group_that_runs_out_gives_way_to_others():
    item = Item(QUERY, pool_of(*"abbbb"))
    assert Counter(demo.answer for demo in chosen(item, 4, "balanced")) == {"a": 1, "b": 3}


@pytest.mark.parametrize("select", ["random", "balanced", "similar"])
def test_so_many_of_every_answer(select):
    item = Item(QUERY, pool_of(*"aaabbbccc"))
    demos = chosen(item, 2, select, per_answer=True, similarity=near)
    assert Counter(demo.answer for demo in demos) == {"a": 2, "b": 2, "c": 2}


def test_draws_are_shuffled_and_differ_between_seeds():
    item = Item(QUERY, pool_of(*"aaabbb"))
    orders = {"".join(d.answer for d in chosen(item, 2, per_answer=True, seed=seed)) for seed in range(40)}
    assert orders == {"aabb", "abab", "abba", "baab", "baba", "bbaa"}
    assert {chosen(item, 1, seed=seed)[0].id for seed in range(60)} == set("012345")


def test_the_most_similar_stands_last():
    item = Item(QUERY, pool_of(*"aabbab"))
    assert [demo.id for demo in chosen(item, 3, "similar", similarity=near)] == ["2", "4", "3"]
    assert [d.id for d in chosen(item, 1, "similar", per_answer=True, similarity=near)] == ["4", "3"]


@pytest.mark.parametrize(
    ("groups", "shots", "per_answer", "says"),
    [
        ("ab", 3, False, "item query has 2 examples to show, and 3 were asked for"),
        ("aab", 2, True, "item query has 1 examples of 'b', and 2 an answer were asked for"),
        ("", 1, False, "item query has 0 examples"),
        ("", 1, True, "item query has 0 examples"),
    ],
)
def test_a_pool_that_is_too_small_is_said(groups, shots, per_answer, says):
    with pytest.raises(InputError, match=says):
        chosen(Item(QUERY, pool_of(*groups)), shots, per_answer=per_answer)
