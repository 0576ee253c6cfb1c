import numpy as np
import pytest

from training.data.heldout import heldout_objects
from training.data.made_up import CONSONANTS, different_names, evaluation_names, made_up_name


def test_evaluation_names_are_for_one_set_each():
    dev, test = evaluation_names("dev"), evaluation_names("test")
    assert len(set(dev)) == len(dev) == len(set(test)) == len(test) == 126
    assert not set(dev) & set(test)
    for names in (dev, test):
        assert {name[0] for name in names} == set(CONSONANTS)
        assert all(name.isalpha() and name.islower() and name not in heldout_objects() for name in names)


def test_training_draws_no_name_of_evaluation(monkeypatch):
    known = evaluation_names("dev")[0]
    drawn = iter([known, evaluation_names("test")[0], "fofo"])
    monkeypatch.setattr("training.data.made_up._syllables", lambda rng: next(drawn))
    assert made_up_name(np.random.default_rng(0)) == "fofo"


def test_names_for_training_are_many_and_of_two_or_three_syllables():
    rng = np.random.default_rng(0)
    names = {made_up_name(rng) for _ in range(200)}
    assert len(names) > 190
    assert {sum(letter in "aeiou" for letter in name) for name in names} == {2, 3}


def test_names_that_stand_together_begin_differently():
    names = different_names(("ba", "bo", "du", "de", "ki"), 3, np.random.default_rng(0))
    assert sorted(name[0] for name in names) == ["b", "d", "k"]
    orders = {tuple(different_names(("ba", "du", "ki"), 3, np.random.default_rng(seed))) for seed in range(40)}
    assert len(orders) == 6
    with pytest.raises(ValueError, match="5 names have 3 first letters, and 4 were asked for"):
        different_names(("ba", "bo", "du", "de", "ki"), 4, np.random.default_rng(0))
