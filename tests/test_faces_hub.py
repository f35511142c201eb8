"""Data sets of the Hugging Face hub, in copies of any form: tables, lists, archives, damaged or larger than memory."""

import io
import json
import os
import warnings
import zipfile
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
        ("metadata.jsonl", f'{{"file_name": {"[" * 990}{"]" * 990}}}\n', "recursion.*"),
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


def test_a_list_may_unpack_to_more_than_the_memory(tmp_path):
    """Equal names lie in a table once: a few kilobytes may be gigabytes."""
    names = pa.DictionaryArray.from_arrays(pa.array([0] * 500, pa.int32()), [f"{'x' * 2**20}.png"])
    others = {f"column {i}": pa.nulls(500) for i in range(30)}
    parquet.write_table(pa.table({"file_name": names, **others}), tmp_path / "metadata.parquet", store_schema=False)
    assert (tmp_path / "metadata.parquet").stat().st_size < 2**19
    config = huggingface.Config(kind="huggingface", path=str(tmp_path))
    with peak() as used:
        assert [data for _, data in huggingface.fetch(config, 900, print)] == [b""] * 500
    assert used() < 2**26


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_list_is_read_line_by_line(tmp_path, name):
    """Of each row the names alone are kept, whatever else it tells."""
    text = "x" * 2**17
    row = f'a.png,"{text}"\n' if name.endswith(".csv") else json.dumps({"file_name": "a.png", "text": text}) + "\n"
    with (tmp_path / name).open("w") as file:
        file.write("file_name,text\n" if name.endswith(".csv") else "")
        file.writelines([row] * 1000)
    (tmp_path / "a.png").write_bytes(b"1")
    config = huggingface.Config(kind="huggingface", path=str(tmp_path))
    with peak() as used:
        assert [data for _, data in huggingface.fetch(config, 900, print)] == [b"1"] * 1000
    assert used() < 2**25


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_list_that_never_ends_a_line_is_told(tmp_path, name):
    with (tmp_path / name).open("w") as file:
        file.write("file_name,text\na.png," if name.endswith(".csv") else '{"file_name": "')
        file.truncate(2**29)  # a hole
    config = huggingface.Config(kind="huggingface", path=str(tmp_path))
    with peak() as used, pytest.raises(UserError, match=rf"^{name}: cannot be read \(.*characters.*\); mend it$"):
        list(huggingface.fetch(config, 900, print))
    assert used() < 2**28


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_a_split_may_have_no_pictures(tmp_path, name):
    called(tmp_path / "train", ["a.png"])
    (tmp_path / "train/metadata.csv").write_text("file_name\na.png\n")
    (tmp_path / "test").mkdir()
    parquet.write_table(pa.table({"file_name": pa.array([], pa.string())}), tmp_path / "test/metadata.parquet")
    if name != "metadata.parquet":
        (tmp_path / "test/metadata.parquet").unlink()
        (tmp_path / "test" / name).write_text("file_name\n" if name.endswith(".csv") else "\n")
    config = huggingface.Config(kind="huggingface", path=str(tmp_path))
    assert [data for _, data in huggingface.fetch(config, 900, print)] == [b"a.png"]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_column_of_a_list_may_have_any_name(tmp_path, ending):
    called(tmp_path, ["a.png", "b.png"])
    rows = {"where": ["a.png"], "drawn": ["b.png"], "who": ["rin"], "file_name": ["c.png"]}
    if ending == "csv":
        (tmp_path / "metadata.csv").write_text("where,drawn,who,file_name\na.png,b.png,rin,c.png\n")
    else:
        parquet.write_table(pa.table(rows), tmp_path / "metadata.parquet")
    named = {"face": "where", "sketch": "drawn", "character": "who"}
    config = huggingface.Config.model_validate({"kind": "huggingface", "path": str(tmp_path)} | named)
    found = dict(huggingface.fetch(config, 900, print))
    assert list(found.values()) == [b"a.png", b"b.png"] and all("/rin/" in name for name in found)


def test_text_in_a_list_may_hold_what_some_take_for_ends_of_lines(tmp_path):
    """JSON writes these as they are."""
    row = {"file_name": "a.png", "text": "a\u2028b\u2029c\x85d\x0be"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\r\n\n", newline="")
    (tmp_path / "a.png").write_bytes(b"1")
    config = huggingface.Config(kind="huggingface", path=str(tmp_path))
    assert [data for _, data in huggingface.fetch(config, 900, print)] == [b"1"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_list_may_end_its_lines_as_any_machine_does(tmp_path, end):
    lines = ["\ufefffile_name,text", 'a.png,"two\nlines"', "b.png,x"]
    (tmp_path / "metadata.csv").write_text(end.join(lines), newline="")
    called(tmp_path, ["a.png", "b.png"])
    config = huggingface.Config(kind="huggingface", path=str(tmp_path))
    assert [data for _, data in huggingface.fetch(config, 900, print)] == [b"a.png", b"b.png"]


def test_of_a_list_only_what_is_looked_at_is_unpacked(tmp_path):
    """Beside names a table may tell much of each picture."""
    called(tmp_path, ["a.png"])
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 9, pa.int32()), ["x" * 2**26])
    who = pa.DictionaryArray.from_arrays(pa.array(range(9), pa.int32()), [f"{i}{'y' * 2**20}" for i in range(9)])
    parquet.write_table(pa.table({"file_name": ["a.png"] * 9, "text": text, "who": who}), tmp_path / "metadata.parquet")
    config = huggingface.Config(kind="huggingface", path=str(tmp_path), character="who")
    pool, usual = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        found = dict(huggingface.fetch(config, 900, print))
    finally:
        pa.set_memory_pool(usual)
    assert list(found.values()) == [b"a.png"] * 9 and pool.max_memory() < 2**26


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_list_may_have_more_rows_than_fit_into_the_memory(tmp_path, ending):
    called(tmp_path, ["a.png"])
    count = 3000 if ending == "parquet" else 30_000
    if ending == "parquet":
        parquet.write_table(pa.table({"file_name": ["a.png"] * count}), tmp_path / "metadata.parquet")
    else:
        row = "x,a.png\n" if ending == "csv" else '{"file_name": "a.png"}\n'
        (tmp_path / f"metadata.{ending}").write_text("text,file_name\n" * (ending == "csv") + row * count)
    config = huggingface.Config(kind="huggingface", path=str(tmp_path))
    with peak() as used:
        assert sum(1 for _ in huggingface.fetch(config, 900, print)) == count
    assert used() < 2**21


def test_a_list_may_not_have_endless_columns(tmp_path):
    rows = ({"file_name": "a.png", f"column {i}": 1} for i in range(20_000))
    (tmp_path / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config = huggingface.Config(kind="huggingface", path=str(tmp_path))
    with pytest.raises(UserError, match=r"^metadata\.jsonl: more than 10,000 columns; leave in it what is used$"):
        list(huggingface.fetch(config, 900, print))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_what_was_unpacked_beside_a_zip_comes_before_what_is_in_it(tmp_path, ending):
    """As the message asks of a table that is larger than any picture, and as one mends a list."""
    (tmp_path / "a").mkdir()
    if ending == "csv":
        pack(tmp_path / "a.zip", {"metadata.csv": b"file_name\nb.png\n", "b.png": b"1", "c.png": b"2"})
        (tmp_path / "a/metadata.csv").write_text("file_name\nb.png\nc.png\n")
    else:
        pack(tmp_path / "a.zip", {"train.parquet": bytes(1000)})
        parquet.write_table(pa.table({"image": [b"1", b"2"]}), tmp_path / "a/train.parquet")
    config = huggingface.Config(kind="huggingface", path=str(tmp_path))
    assert [data for _, data in huggingface.fetch(config, 900, print)] == [b"1", b"2"]


def test_of_two_members_of_one_name_the_last_counts(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in (("x.png", b"1"), ("metadata.csv", b"file_name\nx.png\n"), ("./y.png", b"2")):
            archive.writestr(name, data)
        archive.writestr("metadata.csv", b"file_name\ny.png\n")
    config = huggingface.Config(kind="huggingface", path=str(tmp_path))
    assert [data for _, data in huggingface.fetch(config, 900, print)] == [b"2"]


def test_a_table_of_names_may_have_a_column_of_categories(tmp_path):
    """Which lie in it once, of all rows together."""
    called(tmp_path, ["a.png"])
    who = pa.DictionaryArray.from_arrays(pa.array(range(100), pa.int32()), [f"{i}{'y' * 10**5}" for i in range(100)])
    parquet.write_table(pa.table({"file_name": ["a.png"] * 100, "who": who}), tmp_path / "metadata.parquet")
    config = huggingface.Config(kind="huggingface", path=str(tmp_path), character="who")
    assert len(list(huggingface.fetch(config, 900, print))) == 100


def test_files_in_zips_and_beside_them_may_have_equal_names(tmp_path):
    called(tmp_path, ["a/x.png"])
    pack(tmp_path / "a.zip", {"x.png": b"2"})
    config = huggingface.Config(kind="huggingface", path=str(tmp_path))
    assert sorted(dict(huggingface.fetch(config, 900, print)).values()) == [b"2", b"a/x.png"]


def test_names_in_a_zip_of_an_old_packer_are_those_of_its_list(tmp_path):
    path = pack(tmp_path / "a.zip", {"QQ.png": b"1", "metadata.csv": "file_name\nあ.png\n".encode()})
    path.write_bytes(path.read_bytes().replace(b"QQ", "あ".encode("cp932")))
    config = huggingface.Config(kind="huggingface", path=str(tmp_path))
    assert [data for _, data in huggingface.fetch(config, 900, print)] == [b"1"]


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
