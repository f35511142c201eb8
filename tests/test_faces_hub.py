"""Data sets of the Hugging Face hub, in copies of any form: tables, lists, archives, damaged or larger than memory."""

import io
import os
from contextlib import suppress

import pyarrow as pa
import pytest
from pyarrow import parquet

from ssimbad.errors import UserError
from ssimbad.faces.sources import huggingface

from .conftest import peak
from .pictures import called, pack

LIMIT = 10**4


def test_any_byte_of_a_table_may_be_wrong(tmp_path):
    buffer, path = io.BytesIO(), tmp_path / "train.parquet"
    parquet.write_table(pa.Table.from_pylist([{"image": {"bytes": bytes(99), "path": "a.png"}, "who": 1}] * 2), buffer)
    whole = buffer.getvalue()
    config = huggingface.Config(kind="huggingface", path=str(tmp_path), face="image")
    for place in range(len(whole)):
        bit = (0x80, 0x08, 0x01)[place % 3]
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        with suppress(UserError):
            for name, data in huggingface.fetch(config, 8 * LIMIT, print):
                assert isinstance(name, str) and isinstance(data, bytes)
    path.write_bytes(whole)
    wrong = huggingface.Config(kind="huggingface", path=str(tmp_path), face="who")
    with pytest.raises(UserError, match=r"^train\.parquet: column 'who' holds no pictures; those that do: image$"):
        list(huggingface.fetch(wrong, 8 * LIMIT, print))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("metadata.csv", "file_name\na.png,b\n", "more fields than there are columns"),
        ("metadata.jsonl", "[[1, 2]]\n", "a line is no object"),
        ("metadata.jsonl", '{"file_name": "a.png"}\n"b"\n', "a line is no object"),
        ("metadata.jsonl", "null\n", "a line is no object"),
    ],
)
def test_a_list_of_another_form_is_told(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    config = huggingface.Config(kind="huggingface", path=str(tmp_path))
    with pytest.raises(UserError, match=rf"^{name}: cannot be read \(.*{said}\); mend it"):
        list(huggingface.fetch(config, 8 * LIMIT, print))


def test_a_table_in_an_archive_that_is_larger_than_any_picture_is_told(tmp_path):
    pack(tmp_path / "a.zip", {"metadata.csv": b"file_name\n" * 100, "huge.png": bytes(2000), "b.png": b"2"})
    config = huggingface.Config(kind="huggingface", path=str(tmp_path))
    with pytest.raises(UserError, match=r"^a\.zip: metadata\.csv is larger than any picture"):
        list(huggingface.fetch(config, 900, print))
    pack(tmp_path / "a.zip", {"huge.png": bytes(2000), "b.png": b"2"})
    assert dict(huggingface.fetch(config, 900, print)) == {"a/huge.png": b"", "a/b.png": b"2"}


def test_rows_of_a_table_are_unpacked_one_by_one(tmp_path):
    """Equal cells lie in it once: a small file may hold more than the memory. None is larger than a picture."""
    rows = [{"image": {"bytes": bytes(2**22), "path": "a.png"}}] * 64 + [{"image": {"bytes": bytes(2**23), "path": ""}}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet", compression="zstd")
    del rows
    config = huggingface.Config(kind="huggingface", path=str(tmp_path), face="image")
    before, sizes, most = pa.total_allocated_bytes(), [], 0
    for _, data in huggingface.fetch(config, 2**22, print):
        sizes.append(len(data))
        most = max(most, pa.total_allocated_bytes() - before)
    assert sizes == [2**22] * 64 + [0] and most < 2**26


@pytest.mark.parametrize("kind", ["zip", "table"])
def test_of_a_hub_no_archive_or_table_is_read_whole(tmp_path, kind):
    """Theirs are larger than the memory."""
    if kind == "zip":
        small = pack(tmp_path / ".small.zip", {"b.png": b"2"}).read_bytes()
        with (tmp_path / "a.zip").open("wb") as file:
            file.seek(2**30)  # a hole, before an archive that is found from its end
            file.write(small)
    else:
        rows = pa.table({"image": [bytes([i]) * 2**20 for i in range(96)]})
        pages = {"use_dictionary": False, "write_batch_size": 1}  # one for each row
        parquet.write_table(rows, tmp_path / "train.parquet", compression="none", **pages)
        del rows
    config = huggingface.Config(kind="huggingface", path=str(tmp_path))
    before, arrows, found = pa.total_allocated_bytes(), 0, 0
    with peak() as used:
        for _ in huggingface.fetch(config, 2**22, print):
            arrows, found = max(arrows, pa.total_allocated_bytes() - before), found + 1
    assert found == (1 if kind == "zip" else 96) and used() + arrows < 2**25


def test_a_list_that_unpacks_to_more_than_any_list_is_told(tmp_path):
    """Equal names lie in a table once: a few kilobytes may be gigabytes."""
    names = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), [f"{'x' * 2**20}.png"])
    others = {f"column {i}": pa.nulls(2000) for i in range(30)}
    parquet.write_table(pa.table({"file_name": names, **others}), tmp_path / "metadata.parquet", store_schema=False)
    assert (tmp_path / "metadata.parquet").stat().st_size < 2**19
    config = huggingface.Config(kind="huggingface", path=str(tmp_path))
    said = r"^metadata\.parquet: more than 512 MiB of names; give them in a metadata\.csv$"
    with peak() as used, pytest.raises(UserError, match=said):
        list(huggingface.fetch(config, 900, print))
    assert used() < 2**30


def test_of_a_copy_of_a_hub_only_plain_files_are_opened(tmp_path):
    """Pipes, devices, broken links and what is larger than any picture: the name alone is kept, which ends in
    quarantine."""
    folder = called(tmp_path / "hub", ["a.png"])
    (folder / "broken.png").symlink_to("nowhere.png")
    (folder / "endless.png").symlink_to("/dev/zero")
    (folder / "large.png").write_bytes(bytes(901))
    os.mkfifo(folder / "pipe.png")
    config = huggingface.Config(kind="huggingface", path=str(folder))
    found = dict(huggingface.fetch(config, 900, print))
    assert found == {"a.png": b"a.png", "broken.png": b"", "endless.png": b"", "large.png": b"", "pipe.png": b""}
    for name in ("train.parquet", "metadata.csv", "x.zip"):
        for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("nowhere")):
            make(folder / name)
            with pytest.raises(UserError, match=rf"^{name}: no plain file, or a link to nowhere; fetch it again$"):
                list(huggingface.fetch(config, 900, print))
            (folder / name).unlink()
