from pathlib import Path

from training.eval.items import Example, leave_one_out, with_pool


def example(name, *pictures, **fields):
    return Example(name, tuple(map(Path, pictures)), "What?", f"A {name}.", **fields)


def test_an_answer_stands_for_what_is_accepted_and_for_the_group():
    assert example("lion", "1.png").accepted == ("A lion.",)
    assert example("lion", "1.png", accept=("lion", "cat")).accepted == ("lion", "cat")
    assert example("lion", "1.png").balance == "A lion."
    assert example("lion", "1.png", group="cats").balance == "cats"


def test_no_demonstration_shows_the_picture_that_is_asked_about():
    first, second, third = example("a", "1.png"), example("b", "1.png", "2.png"), example("c", "3.png")
    assert [item.pool for item in leave_one_out([first, second, third])] == [(third,), (third,), (first, second)]
    assert [item.pool for item in with_pool([first, third], [second, third])] == [(third,), (second,)]


def test_an_example_without_pictures_is_not_its_own_demonstration():
    first, second = example("a"), example("b")
    assert [item.pool for item in leave_one_out([first, second])] == [(second,), (first,)]
