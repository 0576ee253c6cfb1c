from training.eval.items import Example
from training.eval.question_only import Blind, question_only


def example(question, answer, kind):
    return Example("", (), question, answer, kind=kind)


def test_the_best_answer_without_a_picture():
    learnt = [example("is there a red shape?", answer, "yes/no") for answer in ("no", "no", "yes")]
    learnt += [example("what shape is it?", answer, "shape") for answer in ("circle", "circle", "triangle")]
    learnt += [example("is there no red shape?", "yes", "yes/no")] * 3
    asked = [
        example("Is there a red shape", "no", "yes/no"),
        example("is there no red shape?", "yes", "yes/no"),
        example("what shape is it?", "triangle", "shape"),
        example("never asked?", "yes", "other"),
    ]
    assert question_only(learnt, asked) == Blind(0.5, 0.75, {"other": 1.0, "shape": 0.0, "yes/no": 1.0})
