"""Zips and tars, however they were packed, damaged or meant: an answer or a line, in bounded memory, never outside."""

import random
import resource
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest

from ssimbad.errors import UserError
from ssimbad.faces.reading import Unreadable
from ssimbad.faces.sources import huggingface, registry, store, webdataset

from .conftest import peak
from .pictures import COMPRESSIONS, pack, tarred

LIMIT = 10**4


def names(path: Path) -> list[str]:
    """Of what is read from an archive of the kind folder."""
    config = registry.get("folder").Config(kind="folder", path=str(path))
    with registry.of(config).opened(config, path, LIMIT) as source:
        return [picture.name for picture in source.listing.pictures]


def test_backslashes_of_windows_archives(tmp_path):
    info = zipfile.ZipInfo("x")
    info.filename = "sub\\a.png"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, b"data")
    assert names(tmp_path / "a.zip") == ["sub/a.png"]
    with store.opened(tmp_path / "a.zip", LIMIT) as source:
        assert source.read("sub/a.png") == b"data"


@pytest.mark.parametrize("member", ["../a.png", "a/../../b.png", "/etc/a.png", "C:/a.png", "..\\a.png"])
def test_paths_that_leave_the_archive(tmp_path, member):
    with pytest.raises(UserError, match=r"a\.zip.*outside the archive"):
        names(pack(tmp_path / "a.zip", {"good.png": b"", member: b""}))


def test_encrypted_archive(tmp_path):
    path = pack(tmp_path / "a.zip", {"a.png": b"data"}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.zip.*'a\.png' is encrypted"):
        names(path)


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
