import re

from training.data import openclipart
from training.data.openclipart import drawing_id, openclipart_sources
from training.data.rows import read_table

METADATA = "<svg><metadata><rdf:li>Tool</rdf:li><rdf:li>Garden work</rdf:li><rdf:li>0x9c7e2ec</rdf:li></metadata></svg>"


def test_rows_follow_the_table(tmp_path, monkeypatch):
    table = tmp_path / "table.tsv"
    table.write_text("# comment\ntools/rake_01\tsteel rakes\ntools/Big-Saw_\told saw\tsaw\thand saw,saw\n")
    monkeypatch.setattr(openclipart, "_TABLE", table)
    tools = tmp_path / "usr/share/openclipart/svg/tools"
    tools.mkdir(parents=True)
    for name in ("rake_01", "Big-Saw_", "unnamed"):
        (tools / f"{name}.svg").write_text(METADATA)

    rake, saw = openclipart_sources(tmp_path)
    assert (rake.id, rake.name, rake.article, rake.object) == (
        "openclipart-tools-rake_01",
        "steel rakes",
        "some",
        "steel rake",
    )
    assert rake.tags == ["garden work"]  # neither what files a drawing nor numbers
    assert (saw.id, saw.name, saw.object, saw.aliases) == (
        "openclipart-tools-big-saw_",
        "old saw",
        "saw",
        ["hand saw", "saw"],
    )


def test_every_drawing_has_its_own_id_that_can_be_a_file_name():
    ids = [drawing_id(row[0]) for row in read_table(openclipart._TABLE)]
    assert len(ids) == len(set(ids)) > 2000
    assert all(re.fullmatch(r"[a-z0-9+._-]+", one) for one in ids)
