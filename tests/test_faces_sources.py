"""A folder and a .zip with the same files are the same source; neither can lead outside itself."""

import os
import random
import resource
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest

from ssimbad.errors import UserError
from ssimbad.faces import fetch
from ssimbad.faces.reading import Unreadable
from ssimbad.faces.sources import huggingface, registry, store, webdataset
from ssimbad.faces.sources.contract import Listing, Picture
from ssimbad.faces.sources.names import make_ids

from .conftest import peak
from .pictures import COMPRESSIONS, called, pack, tarred

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


def test_backslashes_of_windows_archives(tmp_path):
    info = zipfile.ZipInfo("x")
    info.filename = "sub\\a.png"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, b"data")
    assert [p.id for p in pictures(tmp_path / "a.zip")[0]] == ["sub_a"]
    with store.opened(tmp_path / "a.zip", LIMIT) as source:
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
    with store.opened(path, LIMIT) as source:
        assert len(source.read("fine.png")) == 8 * LIMIT
        with pytest.raises(Unreadable, match="too large"):
            source.read("bomb.png")


def test_member_that_unpacks_to_more_than_it_declares(tmp_path):
    path = pack(tmp_path / "a.zip", {"a.png": bytes(10**6)})
    data = path.read_bytes().replace((10**6).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    path.write_bytes(data)
    with store.opened(path, LIMIT) as source, pytest.raises(Unreadable, match="not those that the archive says"):
        source.read("a.png")


def test_damaged_member(tmp_path):
    path = pack(tmp_path / "a.zip", {"a.png": b"0123456789" * 10}, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"0123456789", b"0123456780", 1))
    with store.opened(path, LIMIT) as source, pytest.raises(Unreadable):
        source.read("a.png")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_any_byte_of_an_archive_may_be_wrong(tmp_path, compression):
    """Also that which says how a name is spelled, of names that old packers wrote, or how a member is packed."""
    path = pack(tmp_path / "a.zip", {"XtX.png": bytes(range(99))}, compression)
    whole = path.read_bytes().replace(b"XtX", b"\x82t\x82")
    config = huggingface.Config(kind="huggingface", path=str(tmp_path))
    for place in range(len(whole)):
        for bit in (0x80, 0x08, 0x01):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            with suppress(UserError), store.opened(path, LIMIT) as source:
                for name in source.sizes:
                    with suppress(Unreadable):
                        source.read(name)
            with suppress(UserError):
                list(huggingface.fetch(config, 8 * LIMIT, print))


def test_a_member_without_a_name_harms_no_other(tmp_path):
    path = pack(tmp_path / "a.zip", {"Qx": b"1", "b.png": b"2"}, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"Qx", b"\0x"))
    with store.opened(path, LIMIT) as source:
        assert source.read("b.png") == b"2"
    config = huggingface.Config(kind="huggingface", path=str(tmp_path))
    assert ("a/b.png", b"2") in list(huggingface.fetch(config, 8 * LIMIT, print))


def test_a_member_that_asks_for_a_large_dictionary_is_not_given_one(tmp_path):
    data = bytearray(pack(tmp_path / "a.zip", {"a.png": b"x" * 1000}, zipfile.ZIP_LZMA).read_bytes())
    sides = data.index(b"\x09\x04\x05\x00") + 4  # behind version and length: a byte, then the dictionary's size
    data[sides + 1 : sides + 5] = b"\xff" * 4
    (tmp_path / "a.zip").write_bytes(data)
    with store.opened(tmp_path / "a.zip", LIMIT) as source, peak() as used:
        assert source.read("a.png") == b"x" * 1000
    assert used() < 2**25


def test_a_member_that_is_much_larger_packed_is_not_read(tmp_path):
    """Eight kilobytes on the disk, where its bytes are a hole."""
    data = pack(tmp_path / "a.zip", {"a.png": b"1"}, zipfile.ZIP_STORED).read_bytes()
    packed, large = data.index(b"1", 30), 2**28
    head = bytearray(data[packed + 1 :])
    head[10:12] = zipfile.ZIP_BZIP2.to_bytes(2, "little")
    head[20:24] = large.to_bytes(4, "little")
    end = head.index(b"PK\5\6")
    head[end + 16 : end + 20] = (packed + large).to_bytes(4, "little")
    with (tmp_path / "a.zip").open("wb") as file:
        file.write(data[:packed])
        file.seek(packed + large)
        file.write(head)
    with store.opened(tmp_path / "a.zip", LIMIT) as source, peak() as used, pytest.raises(Unreadable, match="larger"):
        source.read("a.png")
    assert used() < 2**25


def test_each_byte_of_a_member_may_be_flushed_by_itself(tmp_path):
    pen, data = zlib.compressobj(wbits=-15), bytes(range(256)) * 12
    parts = [pen.compress(data[i : i + 1]) + pen.flush(zlib.Z_SYNC_FLUSH) for i in range(len(data))]
    stream = b"".join(parts) + pen.flush()
    path = packed_as(tmp_path / "a.zip", zipfile.ZIP_DEFLATED, stream, data)
    with store.opened(path, LIMIT) as source:
        assert len(stream) > 6 * len(data) and source.read("a.png") == data


@pytest.mark.parametrize("make", [lambda p: pack(p / "00.zip", {"x.png": b"x"}), lambda p: tar(p / "00.tar")])
def test_there_may_be_more_archives_than_files_that_may_be_open(tmp_path, make):
    first = make(tmp_path)
    for number in range(1, 100):  # where 90 files may be
        (tmp_path / f"{number:02d}{first.suffix}").write_bytes(first.read_bytes())
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (90, limits[1]))
    try:
        if first.suffix == ".zip":
            hub = huggingface.Config(kind="huggingface", path=str(tmp_path))
            assert len(list(huggingface.fetch(hub, 900, print))) == 100
        with (store.zips if first.suffix == ".zip" else store.tars)(tmp_path, LIMIT) as source:
            assert [source.read(name) for name in source.sizes] == [b"x"] * 100
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def tar(path: Path) -> Path:
    path.write_bytes(tarred({"x.png": b"x"}))
    return path


def test_a_stream_of_lzma_may_have_no_mark_of_its_end(tmp_path):
    """Other packers write none. The decoder, asked for more than there is, may make a byte of what is left over."""
    made = random.Random(0)
    for number in range(40):
        data = bytes(made.choices(range(256), range(256, 0, -1), k=50 + number))
        stream = b"\x09\x14\x05\0" + bytes([3 + 9 * (0 + 5 * 2)]) + (1 << 16).to_bytes(4, "little") + literals(data)
        path = packed_as(tmp_path / "a.zip", zipfile.ZIP_LZMA, stream, data)
        with store.opened(path, LIMIT) as source:
            assert source.read("a.png") == data


def packed_as(path: Path, method: int, stream: bytes, data: bytes) -> Path:
    """An archive whose only member is a.png, packed in some way."""
    whole = bytearray(pack(path, {"a.png": stream}, zipfile.ZIP_STORED).read_bytes())
    at = whole.rindex(b"PK\1\2")
    whole[at + 10 : at + 12] = method.to_bytes(2, "little")
    whole[at + 16 : at + 20] = zlib.crc32(data).to_bytes(4, "little")
    whole[at + 24 : at + 28] = len(data).to_bytes(4, "little")
    path.write_bytes(whole)
    return path


def literals(data: bytes) -> bytes:
    """LZMA (lc 3, lp 0, pb 2) of literals alone: a range coder, whose bits are told by what came before."""
    low, width, chances, out = 0, 0xFFFFFFFF, {}, 0

    def code(place: tuple[int, ...], bit: int) -> None:
        nonlocal low, width, out
        chance = chances.setdefault(place, 1024)
        bound = (width >> 11) * chance
        low, width = (low + bound, width - bound) if bit else (low, bound)
        chances[place] = chance - (chance >> 5) if bit else chance + ((2048 - chance) >> 5)
        while width < 1 << 24:  # a byte is settled, but for what is carried into it later
            low, width, out = low << 8, width << 8 & 0xFFFFFFFF, out + 1

    before = 0
    for at, byte in enumerate(data):
        code((at % 4,), 0)
        node = 1
        for bit in map(int, f"{byte:08b}"):
            code((before >> 5, 4, node), bit)
            node = 2 * node + bit
        before = byte
    return low.to_bytes(out + 5, "big")


@pytest.mark.parametrize("method", COMPRESSIONS[1:])
@pytest.mark.parametrize("kind", ["hub", "folder"])
def test_a_member_that_holds_more_than_it_says_takes_no_more_memory(tmp_path, method, kind):
    size, said = 2**26, 100
    data = bytearray(pack(tmp_path / "a.zip", {"huge.png": bytes(size), "b.png": b"2"}, method).read_bytes())
    while (place := data.find(size.to_bytes(4, "little"))) >= 0:
        data[place : place + 4] = said.to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(data)
    with peak() as used:
        if kind == "hub":
            with pytest.raises(UserError, match=r"^a\.zip: huge\.png cannot be read"):
                list(huggingface.fetch(huggingface.Config(kind="huggingface", path=str(tmp_path)), 900, print))
        else:
            with store.opened(tmp_path / "a.zip", LIMIT) as source, pytest.raises(Unreadable):
                source.read("huge.png")
    assert used() < 2**25


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


def header(name: bytes, size: int, kind: bytes = b"0", extended: bytes = b"") -> bytes:
    """Of a tar's member, its size in base 256: negative ones and those that no octal digits hold, too."""
    block = bytearray(512)
    block[: len(name)], block[257:265] = name, b"ustar  \0" if kind == b"S" else b"ustar\x0000"
    block[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % 2**88).to_bytes(11, "big")
    block[148:156], block[156:157], block[482 : 482 + len(extended)] = b" " * 8, kind, extended
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(key: str, value: int, kind: bytes = b"x") -> bytes:
    """A header that says something of the member behind it."""
    text = next(f"{n} {key}={value}\n".encode() for n in range(99) if n == len(f"{n} {key}={value}\n"))
    return header(b"pax", len(text), kind) + text.ljust(512, b"\0")


SOUND = header(b"b.png", 9) + b"something".ljust(512, b"\0")
SIZES = (-1, -511, -512, -1024, -(2**40), 2**40, 2**62, 2**70)
WRONG_TARS = {
    **{f"{kind} {size}": header(b"a.png", size, kind.encode()) + SOUND for kind in "05xgLKXSA" for size in SIZES
       if kind != "5"},
    **{f"pax {key} {size}": pax(key, size) + SOUND for key in ("size", "GNU.sparse.size", "GNU.sparse.realsize")
       for size in SIZES if size < 0},
    "pax size 2^62": pax("size", 2**62) + SOUND,
    "a sparse member that goes on": header(b"a.png", 512, b"S", b"\1"),
    "headers without end": pax("comment", 1) * 2000,
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG_TARS)
@pytest.mark.parametrize("before", [b"", SOUND], ids=["first", "second"])
def test_sizes_of_a_tar_are_asked_before_they_are_followed(tmp_path, what, before):
    (tmp_path / "0.tar").write_bytes(before + WRONG_TARS[what])
    with pytest.raises(UserError, match=r"0\.tar: no readable \.tar"), store.tars(tmp_path, LIMIT):
        pass
    config = registry.get("webdataset").Config(kind="webdataset", urls=["http://a.b/0.tar"])
    streams = mock.patch("urllib.request.urlopen", lambda *_, **__: (tmp_path / "0.tar").open("rb"))
    with streams, pytest.raises(UserError, match=r"urls: http://a\.b/0\.tar cannot be had"):
        list(webdataset.fetch(config, 8 * LIMIT, print))


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


def zipped(path: Path, names: list[bytes]) -> Path:
    """Members without the flag of UTF-8, each holding its name."""
    with zipfile.ZipFile(path, "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(f"{i}".rjust(len(name), "A"), name)
    data = path.read_bytes()
    for i, name in enumerate(names):
        data = data.replace(f"{i}".rjust(len(name), "A").encode(), name)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("names", "encoding"),
    [
        (["ソ.png", "表/予.png"], "cp932"),
        (["ソ.png", "é.png"], "utf-8"),
        (["café.png", "a\\b.png"], "cp437"),
        (["a\\b.png"], "ascii"),
    ],
)
def test_names_of_old_archives(tmp_path, names, encoding):
    path = zipped(tmp_path / "a.zip", [name.encode(encoding) for name in names])
    with store.opened(path, LIMIT) as source:
        assert set(source.sizes) == {name.replace("\\", "/") for name in names}
        assert {source.read(name).decode(encoding).replace("\\", "/") for name in source.sizes} == set(source.sizes)


def test_members_of_equal_names_are_both_there(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        pack_twice(tmp_path / "a.zip")
    with store.opened(tmp_path / "a.zip", LIMIT) as source:
        assert {name: source.read(name) for name in source.sizes} == {"a.png": b"1", "a.png (2)": b"2"}


def pack_twice(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"1")
        archive.writestr("a.png", b"2")


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
