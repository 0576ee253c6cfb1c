import pytest

from training.data.rcc import read_rcc

FILES = {"a/b/photo.webp": b"RIFF" * 50, "a/read me.txt": b"x" * 1000, "a/b/ü.qml": b"", "top": b"\0\1"}


@pytest.mark.parametrize("version", [1, 2, 3])
def test_reads_nested_raw_and_compressed_files(tmp_path, write_rcc, version):
    path = tmp_path / "some.rcc"
    path.write_bytes(write_rcc(FILES, version=version, compress=("a/read me.txt", "a/b/ü.qml")))
    assert read_rcc(path) == FILES


def test_compressed_files_are_smaller_in_the_archive(write_rcc):
    assert len(write_rcc(FILES, compress=("a/read me.txt",))) < len(write_rcc(FILES)) - 900


def test_zstd_is_refused_by_name(tmp_path, write_rcc):
    path = tmp_path / "new.rcc"
    path.write_bytes(write_rcc(FILES, compress=("top",), flag=4))
    with pytest.raises(ValueError, match="top is compressed with zstd"):
        read_rcc(path)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 a zip file", b"qres", b"qres" + bytes(8)])
def test_what_is_no_archive_is_an_error(tmp_path, content):
    path = tmp_path / "broken.rcc"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.rcc"):
        read_rcc(path)


def test_a_cut_archive_is_an_error(tmp_path, write_rcc):
    path = tmp_path / "cut.rcc"
    path.write_bytes(write_rcc(FILES)[:-60])
    with pytest.raises(ValueError, match=r"cut\.rcc is a damaged"):
        read_rcc(path)
