"""A folder and a .zip with the same files are the same source; neither can lead outside itself."""

import os
import zipfile
from pathlib import Path

import pytest

from ssimbad.errors import UserError
from ssimbad.faces.reading import Unreadable
from ssimbad.faces.sources import make_ids, open_source

LIMIT = 10**4


def fill(folder: Path, names: list[str]) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    return folder


def pack(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def pictures(path: Path) -> tuple[list, dict]:
    with open_source(path, LIMIT) as source:
        return source.pictures()


NAMES = ["b.png", "a.JPG", "deep/er/c.webp", "no_ending", "日本語 1.png"]
PASSED_OVER = [".DS_Store", "__MACOSX/a.png", ".hidden/x.png", "a.txt", "tags.json", "Thumbs.db"]


def test_folder_and_zip_alike(tmp_path):
    folder = fill(tmp_path / "folder", NAMES + PASSED_OVER)
    archive = pack(tmp_path / "a.zip", {name: name.encode() for name in reversed(NAMES + PASSED_OVER)})
    assert pictures(folder) == pictures(archive)
    found, unused = pictures(folder)
    assert [p.name for p in found] == sorted(NAMES) and unused == {}
    assert {p.id for p in found} == {"b", "a", "deep_er_c", "no_ending", "日本語_1"}
    for path in (folder, archive):
        with open_source(path, LIMIT) as source:
            assert all(source.read(name) == name.encode() for name in NAMES)


def test_backslashes_of_windows_archives(tmp_path):
    info = zipfile.ZipInfo("x")
    info.filename = "sub\\a.png"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, b"data")
    with open_source(tmp_path / "a.zip", LIMIT) as source:
        assert [p.id for p in source.pictures()[0]] == ["sub_a"]
        assert source.read("sub/a.png") == b"data"


@pytest.mark.parametrize("member", ["../a.png", "a/../../b.png", "/etc/a.png", "C:/a.png", "..\\a.png"])
def test_paths_that_leave_the_archive(tmp_path, member):
    with pytest.raises(UserError, match=r"a\.zip.*outside the archive"):
        pictures(pack(tmp_path / "a.zip", {"good.png": b"", member: b""}))


def test_encrypted_archive(tmp_path):
    path = pack(tmp_path / "a.zip", {"a.png": b"data"}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.zip.*'a\.png' is encrypted"):
        pictures(path)


def test_zip_bomb_is_not_unpacked(tmp_path):
    path = pack(tmp_path / "a.zip", {"bomb.png": bytes(8 * LIMIT + 2**20 + 1), "fine.png": bytes(8 * LIMIT)})
    assert path.stat().st_size < 10_000
    with open_source(path, LIMIT) as source:
        assert len(source.read("fine.png")) == 8 * LIMIT
        with pytest.raises(Unreadable, match="too large"):
            source.read("bomb.png")


def test_member_that_unpacks_to_more_than_it_declares(tmp_path):
    path = pack(tmp_path / "a.zip", {"a.png": bytes(10**6)})
    data = path.read_bytes().replace((10**6).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    path.write_bytes(data)
    with open_source(path, LIMIT) as source, pytest.raises(Unreadable, match="CRC"):
        source.read("a.png")


def test_damaged_member(tmp_path):
    path = pack(tmp_path / "a.zip", {"a.png": b"0123456789" * 10}, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"0123456789", b"0123456780", 1))
    with open_source(path, LIMIT) as source, pytest.raises(Unreadable):
        source.read("a.png")


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.write_bytes(b"no zip")])
def test_neither_folder_nor_zip(tmp_path, make):
    path = tmp_path / "faces.zip"
    make(path)
    with pytest.raises(UserError, match=r"faces\.zip: no folder.*data\.path"):
        pictures(path)


def test_links_are_followed_once_and_never_loop(tmp_path):
    elsewhere = fill(tmp_path / "elsewhere", ["x.png"])
    folder = fill(tmp_path / "folder", ["sub/a.png"])
    (folder / "loop").symlink_to(folder)
    (folder / "sub" / "up").symlink_to("..")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "file.png").symlink_to(elsewhere / "x.png")
    assert [p.name for p in pictures(folder)[0]] == ["file.png", "linked/x.png", "sub/a.png"]


def test_broken_links_and_pipes_are_not_opened(tmp_path):
    folder = fill(tmp_path / "folder", ["a.png"])
    (folder / "broken.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "pipe.png")
    with open_source(folder, LIMIT) as source:
        for name in ("broken.png", "pipe.png", "unheard-of.png"):
            with pytest.raises(Unreadable, match="no plain file"):
                source.read(name)


def test_layout_of_references_and_sketches(tmp_path):
    folder = fill(
        tmp_path / "folder",
        [
            "reference/1.png",
            "sketch/1.jpg",
            "reference/2.png",
            "sketch/3.png",
            "reference/s/4.png",
            "sketch/s/4.png",
            "other/5.png",
        ],
    )
    found, unused = pictures(folder)
    assert [(p.id, p.name, p.sketch) for p in found] == [
        ("1", "reference/1.png", "sketch/1.jpg"),
        ("2", "reference/2.png", ""),
        ("s_4", "reference/s/4.png", "sketch/s/4.png"),
    ]
    assert set(unused) == {"sketch/3.png", "other/5.png"}


def test_layout_below_other_folders(tmp_path):
    names = [f"{part}/{side}/1.png" for part in ("train", "test") for side in ("reference", "sketch")]
    found, _ = pictures(pack(tmp_path / "a.zip", {name: b"" for name in names}))
    assert [(p.id, p.sketch) for p in found] == [
        ("test_1", "test/sketch/1.png"),
        ("train_1", "train/sketch/1.png"),
    ]


def test_folders_that_only_sound_like_the_layout(tmp_path):
    found, unused = pictures(fill(tmp_path / "folder", ["sketch/1.png", "a/reference/2.png"]))
    assert len(found) == 2 and unused == {} and not any(p.sketch for p in found)


def test_ids_are_unique_safe_and_independent_of_order():
    names = [
        "a/b.png",
        "a_b.png",
        "A_B.webp",
        "x y.png",
        "x/y?.png",
        "-z.png",
        "l" * 300 + ".png",
        "plain.png",
    ]
    ids = make_ids(names)
    assert len({id_.casefold() for id_ in ids.values()}) == len(names)
    assert ids == make_ids(names[::-1])
    assert ids["plain.png"] == "plain" and ids["-z.png"] == "_z"
    assert all(len(id_) <= 60 and not set(id_) & set("/\\?* ") and id_[0] not in ".-" for id_ in ids.values())


def test_names_that_are_no_utf8(tmp_path):
    folder = fill(tmp_path / "folder", ["a.png"])
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png")).write_bytes(b"data")
    found, _ = pictures(folder)
    assert all(p.name.encode() and p.id.encode() for p in found)
    with open_source(folder, LIMIT) as source:
        assert source.read(found[0].name) == b"data"
