"""A folder and a .zip with the same files are the same source; neither can lead outside itself."""

import os
from pathlib import Path

import pytest

from ssimbad.errors import UserError
from ssimbad.faces import fetch
from ssimbad.faces.reading import Unreadable
from ssimbad.faces.sources import registry, store
from ssimbad.faces.sources.contract import Listing, Picture
from ssimbad.faces.sources.names import make_ids

from .pictures import called, pack

LIMIT = 10**4


def listing(path: Path, **block) -> Listing:
    """Of a source of kind folder."""
    config = registry.get("folder").Config.model_validate({"kind": "folder", "path": str(path)} | block)
    with registry.of(config).opened(config, path, LIMIT) as source:
        return source.listing


def pictures(path: Path, **block) -> tuple[list[Picture], dict[str, str]]:
    found = listing(path, **block)
    return found.pictures, found.unused


NAMES = ["b.png", "a.JPG", "deep/er/c.webp", "no_ending", "日本語 1.png"]
PASSED_OVER = [".DS_Store", "__MACOSX/a.png", ".hidden/x.png", "a.txt", "tags.json", "Thumbs.db"]


def test_folder_and_zip_alike(tmp_path):
    folder = called(tmp_path / "folder", NAMES + PASSED_OVER)
    archive = pack(tmp_path / "a.zip", {name: name.encode() for name in reversed(NAMES + PASSED_OVER)})
    assert pictures(folder) == pictures(archive)
    found, unused = pictures(folder)
    assert [p.name for p in found] == sorted(NAMES) and unused == {}
    assert {p.id for p in found} == {"b", "a", "deep_er_c", "no_ending", "日本語_1"}
    for path in (folder, archive):
        with store.opened(path, LIMIT) as source:
            assert all(source.read(name) == name.encode() for name in NAMES)


def test_what_is_fetched_has_names_that_an_archive_can_have():
    assert fetch.inside("/../c:\\a\udc89/b\ud800.png") == "c_/a\\udc89/b\\ud800.png"


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.write_bytes(b"no zip")])
def test_neither_folder_nor_zip(tmp_path, make):
    path = tmp_path / "faces.zip"
    make(path)
    with pytest.raises(UserError, match=r"faces\.zip: no folder.*data\.path"):
        pictures(path)


def test_links_are_followed_once_and_never_loop(tmp_path):
    elsewhere = called(tmp_path / "elsewhere", ["x.png"])
    folder = called(tmp_path / "folder", ["sub/a.png"])
    (folder / "loop").symlink_to(folder)
    (folder / "sub" / "up").symlink_to("..")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "file.png").symlink_to(elsewhere / "x.png")
    assert [p.name for p in pictures(folder)[0]] == ["file.png", "linked/x.png", "sub/a.png"]


def test_broken_links_and_pipes_are_not_opened(tmp_path):
    folder = called(tmp_path / "folder", ["a.png"])
    (folder / "broken.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "pipe.png")
    with store.opened(folder, LIMIT) as source:
        for name in ("broken.png", "pipe.png", "unheard-of.png"):
            with pytest.raises(Unreadable, match="no plain file"):
                source.read(name)


def test_layout_of_references_and_sketches(tmp_path):
    names = ["reference/1.png", "sketch/1.jpg", "reference/2.png", "sketch/3.png", "reference/s/4.png"]
    folder = called(tmp_path / "folder", [*names, "sketch/s/4.png", "other/5.png"])
    found, unused = pictures(folder)
    assert [(p.id, p.name, p.sketch) for p in found] == [
        ("1", "reference/1.png", "sketch/1.jpg"),
        ("2", "reference/2.png", ""),
        ("s_4", "reference/s/4.png", "sketch/s/4.png"),
    ]
    assert set(unused) == {"sketch/3.png", "other/5.png"}
    assert listing(folder).said == [
        "2 pairs of face and sketch, the first reference/1.png with sketch/1.jpg, 1 without a sketch"
    ]


PAIRS = {  # two pairs each: {face: sketch}
    "the AnimeDiffusion release": {
        "train/reference/1.png": "train/condition/1.png",
        "test/reconstruction/reference/1.png": "test/reconstruction/condition/1.png",
    },
    "the authors' copy": {"reference/1.jpg": "sketch/1.jpg", "shuffled/reference/1.jpg": "shuffled/sketch/1.jpg"},
    "a folder per character": {"reference/mei/1.png": "sketch/mei/1.png", "reference/rin/1.png": "sketch/rin/1.png"},
    "the word outside": {"color/train/1.png": "line/train/1.png", "color/val/1.png": "line/val/1.png"},
    "plural and capitals": {"Images/1.webp": "Edges/1.PNG", "Images/2.webp": "Edges/2.PNG"},
    "a word in the path above": {"image/gt/1.png": "image/lines/1.png", "image/gt/2.png": "image/lines/2.png"},
    "endings of names": {"a/1_color.png": "a/1_sketch.png", "a/2_color.png": "a/2_sketch.png"},
    "beginnings of names": {"gt-1.png": "line-1.png", "gt-2.png": "line-2.png"},
    "only sketches are marked": {"1.png": "1_lineart.png", "b/2.png": "b/2_lineart.png"},
    "sketches in a folder inside": {"a/1.png": "a/sketch/1.png", "a/2.png": "a/sketch/2.png"},
    "two ways to spell a letter": {"reference/e\u0301.png": "sketch/\u00e9.png", "reference/2.png": "sketch/2.png"},
}  # fmt: skip


@pytest.mark.parametrize("layout", PAIRS)
def test_pairs_are_known_by_their_names(tmp_path, layout):
    found, unused = pictures(called(tmp_path, [*PAIRS[layout], *PAIRS[layout].values()]))
    assert {p.name: p.sketch for p in found} == PAIRS[layout] and unused == {}
    assert not any(word in p.id.lower() for p in found for word in ("reference", "color", "gt"))


def test_what_paths_say_besides(tmp_path):
    names = [f"{s}/{side}/{who}/{n}.png" for s in ("train", "valid", "testing") for side in ("color", "sketch")
             for who in "abcd" for n in range(2)]  # fmt: skip
    found = listing(called(tmp_path / "a", names))
    assert {p.name: (p.split, p.identity) for p in found.pictures} == {
        f"{folder}/color/{who}/{n}.png": (split, who)
        for folder, split in (("train", "train"), ("valid", "val"), ("testing", "test"))
        for who in "abcd" for n in range(2)
    }  # fmt: skip
    assert found.said[0].startswith("24 pairs of face and sketch, the first testing/color/a/0.png with testing/sk")
    assert "folders name splits (8 train, 8 val, 8 test): data.splits: path" in found.said[1]
    assert "4 folders are taken for characters" in found.said[2]


@pytest.mark.parametrize(
    "names",
    [
        ["a/1.png", "a/2.png", "b/3.png", "b/4.png"],  # too few folders
        ["a/1.png", "b/2.png", "c/3.png", "4.png"],  # not all lie in one
        [*(f"a/{n}.png" for n in range(9)), "b/1.png", "c/1.png", "d/1.png"],  # one holds most
        [f"data/data/{n}.png" for n in range(9)],
    ],
)
def test_folders_that_are_no_characters(tmp_path, names):
    assert {p.identity for p in pictures(called(tmp_path, names))[0]} == {""}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["sketch/1.png", "a/reference/2.png"], r"1 of 2 files are named like sketches, such as sketch/1\.png"),
        (["faces/1.png", "faces/2.png", "line/1.png", "line/2.png"], r"such as line/1\.png.*colour: …"),
        ([*(f"{n}.png" for n in range(10)), "a_sketch.png"], "named like sketches"),
        (["reference/1.png", "sketch/1.png", "sketch/2.png", "sketch/3.png"], r"2 of 3 sketches belong to no face"),
        (["gt/1.png", "color/1.png", "line/1.png"], r"color/1\.png and gt/1\.png could both.*colour: color"),
        (["gt/1.png", "sketch/1.png", "line/1.png"], r"could both be the sketch.*sketch: line"),
    ],
)
def test_what_looks_like_pairs_and_does_not_fit(tmp_path, names, said):
    folder = called(tmp_path, names)
    with pytest.raises(UserError, match=said):
        pictures(folder)
    found, unused = pictures(folder, layout="plain")
    assert len(found) == len(names) and unused == {} and not any(p.sketch for p in found)


def test_words_of_ones_own(tmp_path):
    folder = called(tmp_path, ["faces/1.png", "ink/1.png", "gt/1.png"])
    found, unused = pictures(folder, colour="faces", sketch="ink")
    assert [(p.name, p.sketch) for p in found] == [("faces/1.png", "ink/1.png")] and list(unused) == ["gt/1.png"]
    with pytest.raises(UserError, match="named like sketches"):
        pictures(folder, colour="faces", sketch="lines")


@pytest.mark.parametrize(("inner", "kind"), [("00000.tar", "webdataset"), ("color/0001.zip", "parallel")])
def test_archives_in_a_folder_are_another_kind(tmp_path, inner, kind):
    with pytest.raises(UserError, match=rf"such as {inner}.*kind: {kind}"):
        pictures(called(tmp_path, [inner]))
    with pytest.raises(UserError, match=r"2 tables \.parquet and no image.*kind: huggingface"):
        pictures(called(tmp_path / "b", ["0000.parquet", "0001.parquet"]))


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


def test_names_of_any_bytes(tmp_path):
    """None is lost, also where one is spelled as another is read."""
    folder = called(
        tmp_path / "folder", ["a.png", "\\xff.png", "line\rbreak.png", "x" * 250 + ".png", "e\u0301.png", "\u00e9.png"]
    )
    raw = [b"\xff.png", "ソ.png".encode("cp932")]
    for name in raw:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(name)
    found, _ = pictures(folder)
    assert len({p.name for p in found}) == len({p.id.casefold() for p in found}) == 8
    assert all(p.name.encode() and p.id.encode() for p in found)
    with store.opened(folder, LIMIT) as source:
        assert {source.read(p.name) for p in found} >= set(raw)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    folder = called(tmp_path / "folder", ["a.png", "shut/b.png"])
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"shut: this folder cannot be read \(Permission denied\)"):
        pictures(folder)
