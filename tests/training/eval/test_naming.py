import json

from training.eval import naming


def test_photographs_come_from_the_built_set(tmp_path, monkeypatch):
    (tmp_path / "dev").mkdir()
    rows = [
        {"id": "farm-cow", "file": "pictures/cow.webp", "noun": "cow", "accept": ["cow", "cattle"]},
        {"id": "farm-owl", "file": "pictures/owl.webp", "noun": "owl", "accept": ["owl", "bird"]},
    ]
    (tmp_path / "dev/index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = []
    monkeypatch.setattr(naming, "build", lambda *arguments: asked.append(arguments) or tmp_path)
    cow, owl = naming.naming("dev", 0, print)
    assert asked == [("naming", print)]
    assert (cow.query.id, cow.query.pictures) == ("farm-cow", (tmp_path / "dev/pictures/cow.webp",))
    assert (cow.query.question, cow.query.accepted) == (naming.QUESTION, ("cow", "cattle"))
    assert (cow.query.answer, owl.query.answer) == ("A cow.", "An owl.")
    assert (cow.pool, owl.pool) == ((owl.query,), (cow.query,))
