"""The page among many requests, and those that are too large, bombs, nonsense or broken off."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import re
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest
from PIL import Image

from .conftest import FEW, MIB, PATIENCE, PEOPLE, Page, Reply, at_once, png, require_sentence, start, tell, url


@pytest.mark.parametrize("people", PEOPLE)
def test_many_at_once_each_get_an_answer_or_a_sentence(page, people):
    alone = page.ask("/api/colour", page.sketch(seed="7"))

    def visit(number: int) -> Reply:
        for path in ("/", "/api/state", f"/api/options?weights={page.weights}", f"/api/example/{number % 4}/sketch"):
            assert page.ask(path).status == 200
        return page.ask("/api/colour", page.sketch(seed="7"))

    replies = at_once(people, visit)
    answered = [reply for reply in replies if reply.status == 200]
    assert all(reply.said["image"] == alone.said["image"] for reply in answered)
    assert len(answered) >= min(people, 16)
    for reply in replies:
        if reply.status != 200:
            assert "too many are waiting" in require_sentence(reply, 503)
    tell(f"{people} people: {len(answered)} answers, {people - len(answered)} sentences", page)


def upload(size: int) -> Iterator[bytes]:
    """JSON of one long text, in parts."""
    yield b'{"sketch": "data:image/png;base64,'
    part = b"A" * MIB
    for _ in range(size // MIB):
        yield part
    yield b'"}'


@pytest.mark.parametrize("people", PEOPLE)
@pytest.mark.parametrize("told", [True, False], ids=["length told", "in chunks"])
def test_too_large_an_upload_is_told_so_and_not_kept(page, people, told):
    size = (200 if people > FEW else 72) * MIB
    length = {"Content-Length": str(sum(map(len, upload(size))))} if told else {}
    replies = at_once(people if told or people > FEW else 2, lambda _: page.ask("/api/colour", upload(size), **length))
    for reply in replies:
        assert re.search("too large|too many are waiting", require_sentence(reply, 413, 503))
    assert any("48 MiB" in reply.said["error"] for reply in replies)
    assert page.peak < 1500 * MIB
    tell(f"{len(replies)} uploads of {size // MIB} MiB", page)


def header_of(width: int, height: int) -> bytes:
    """A PNG of so many white pixels, of few bytes."""
    rows = zlib.compressobj(9)
    line = b"\0" + b"\xff" * ((width + 7) // 8)
    data = b"".join(rows.compress(line) for _ in range(height)) + rows.flush()
    about = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", about) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def stuffed(kind: bytes) -> bytes:
    """A PNG with 64 MiB of zeros, packed, beside its pixels."""
    whole, packer = png(Image.new("L", (8, 8), 255)), zlib.compressobj(1)
    data = b"x\0\0" + b"".join(packer.compress(bytes(MIB)) for _ in range(64)) + packer.flush()
    return whole[:33] + chunk(kind, data) + whole[33:]


LAUGHS = "[&a [1,1,1,1,1,1,1,1]" + "".join(
    f", &{y} [*{x},*{x},*{x},*{x},*{x},*{x},*{x},*{x}]" for x, y in zip("abcdefghijk", "bcdefghijkl", strict=True)
) + "]"  # fmt: skip
"""Eight to the twelfth ones, by YAML's aliases."""
BOMBS: dict[str, tuple[Callable[[], dict | bytes], str]] = {
    "pixels": (lambda: {"sketch": url(header_of(20_000, 20_000))}, "sketch: too many pixels"),
    "pixels of the reference": (lambda: {"references": [url(header_of(9000, 9000))]}, "reference: too many pixels"),
    "packed text": (lambda: {"sketch": url(stuffed(b"zTXt"))}, "sketch: "),
    "packed profile": (lambda: {"sketch": url(stuffed(b"iCCP"))}, "sketch: "),
    "many values": (lambda: b'{"options": [' + b"[]," * (20 * MIB) + b"[]]}", "the request cannot be read"),
    "many keys": (lambda: b'{"a": {' + b'"":1,' * (12 * MIB) + b'"":1}}', "the request cannot be read"),
    "deep": (lambda: b"[" * 9000, "the request cannot be read"),
    "deep option": (lambda: {"options": {"guidance_scale": "[" * 990}}, "options guidance_scale"),
    "laughs": (lambda: {"options": {"guidance_scale": LAUGHS}}, "options guidance_scale"),
    "wide letters": (lambda: ('{"sketch": "' + "😀" * (12 * MIB) + '"}').encode(), "sketch: none is given"),
    "long name": (lambda: {"weights": "w" * MIB}, "weights: not as this page sends it"),
    "long number": (lambda: {"steps": "9" * 5000}, "steps"),
}  # fmt: skip


@pytest.mark.parametrize("people", PEOPLE)
def test_bombs_are_refused_in_a_sentence(page, people):
    names = list(BOMBS)
    bodies = {
        name: made if isinstance(made := make(), bytes) else page.sketch(**made) for name, (make, _) in BOMBS.items()
    }

    def throw(number: int) -> None:
        for name in random.Random(number).sample(names, len(names)) if people > FEW else names[number::FEW]:
            reply = page.ask("/api/colour", bodies[name])
            said = require_sentence(reply, 200, 400, 503)
            assert said.startswith(BOMBS[name][1]) or reply.status == 503, (name, said)

    at_once(people, throw)
    tell(f"{people} people with {len(names)} bombs", page)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_the_largest_picture_is_coloured(page):
    """40 million pixels at their own size: the most that one answer takes."""
    page.growth, lines = 4096 * MIB, Image.new("L", (8000, 5000), 255)
    for place in range(100, 4000, 100):
        lines.paste(0, (place, place, place + 900, place + 6))
    reply = page.ask("/api/colour", page.sketch(sketch=url(png(lines))))
    image = base64.b64decode(reply.said["image"].partition(",")[2])
    assert reply.status == 200 and Image.open(io.BytesIO(image)).size == lines.size
    tell("40 million pixels", page)


NONSENSE = [
    "", "null", "[1]", '"x"', "{", "{}", "\0\1\2", "\ufeff{}", '{"sketch": 5}', '{"references": 5}', '{"mask": {}}',
    '{"references": ["x", 5]}', '{"options": [1]}', '{"options": {"\\ud800": 1}}', '{"names": "x"}',
    '{"weights": ["x"]}', '{"weights": "\\ud800"}', '{"sketch": "data:,x", "steps": 1e999}',
]  # fmt: skip
HEAD = b"POST /api/colour HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
BROKEN = [b"\x16\x03\x01" * 99, HEAD[:-18] + b"X: " + b"a" * MIB, HEAD + b"-5\r\n\r\n"]
OTHERS = [
    {"steps": float("inf")}, {"steps": float("nan")}, {"seed": "x"}, {"seed": "9" * 900}, {"fit": "x"}, {"lines": "\0"},
    {"sampler": "x"}, {"sketch": url(b"")}, {"sketch": "data:,%00"}, {"sketch": url(os.urandom(5000))},
    {"references": []}, {"mask": url(b"x")}, {"reference_mask": "x"}, {"options": {"": ""}}, {"options": {"x": "!!x"}},
    {"options": {"x" * 999: 5}}, {"steps": True}, {"steps": -1}, {"steps": 0.5}, {"weights": "../../etc/passwd"},
    {"names": {"sketch": ["$(id)", "<b>"]}, "seed": "-5"},
]  # fmt: skip


@pytest.mark.parametrize("people", PEOPLE)
def test_nonsense_is_answered_in_a_sentence(page, people):

    def talk(number: int) -> None:
        mine = random.Random(number)
        for body in NONSENSE if people > FEW else NONSENSE[number::FEW]:
            require_sentence(page.ask("/api/colour", body.encode()), 400, 503)
            require_sentence(page.ask("/api/study/vote", body.encode()), 400)
        for other in OTHERS if people > FEW else OTHERS[number::FEW]:
            reply = page.ask("/api/colour", page.sketch(**other))
            if "image" not in reply.said:
                require_sentence(reply, 200, 400, 503)
        for vote in ({"place": "\ud800"}, {"set": "x" * 5000}, {"rater": "../x"}, {"question": "\n"}):
            require_sentence(page.ask("/api/study/vote", {"rater": "a", "set": "s0", "question": "colour"} | vote), 400)
        require_sentence(page.ask("/api/study/vote", b" " * MIB), 413)
        for path in ("/api/study?rater=%ff", "/api/study/picture?rater=a&set=%00&place=9", "/api/example/99/x",
                     f"/api/example/{'9' * 5000}/sketch", "/api/options?weights=../x", "/api/options"):  # fmt: skip
            require_sentence(page.ask(path), 400)
        assert page.ask("/api/colour", b"{}", **{"Content-Type": "text/plain"}).status in (400, 503)
        assert {page.ask(path).status for path in ("/x", "/../etc/passwd", "/api/colour/x", "/%00")} <= {404, 405}
        assert {page.ask("/", b"x", method).status for method in ("PUT", "DELETE", "POST")} == {405}
        for data in (*BROKEN, mine.randbytes(9000)):
            assert raw(page, data)[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 431")

    at_once(people, talk)
    tell(f"{people} people with nonsense", page)


def raw(page: Page, data: bytes) -> bytes:
    """What is said to bytes that are perhaps no HTTP."""
    with socket.create_connection(("127.0.0.1", page.port), timeout=PATIENCE) as sent:
        try:
            sent.sendall(data)
            sent.shutdown(socket.SHUT_WR)
            return sent.recv(1000)
        except (ConnectionError, OSError):
            return b""


FEW_FILES = """
import resource
from ssimbad.web import connections
resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
connections.PATIENCE = 5.0
"""


def test_more_requests_that_never_end_than_there_are_files_close_the_page_for_a_while_only(tmp_path):
    """All who come meanwhile are told at once; nothing is written on the terminal."""
    page = start(tmp_path, first=FEW_FILES)
    try:
        calm, said = page.ask("/api/state"), page.log()
        with ExitStack() as all_of_them:
            for _ in range(220):
                sent = socket.create_connection(("127.0.0.1", page.port), timeout=PATIENCE)
                all_of_them.enter_context(sent)
                with suppress(ConnectionError):  # it was refused already
                    sent.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
            asked, end = [], time.monotonic() + PATIENCE
            while not asked or asked[-1] != calm:
                assert time.monotonic() < end
                with suppress(ConnectionError):
                    asked.append(page.ask("/api/state"))
            for reply in asked[:-1]:
                assert "too many are waiting" in require_sentence(reply, 503)
            assert len(asked) > 1
        assert page.ask("/api/colour", page.sketch()).said["image"] and page.log() == said
    finally:
        page.end()


def leave(page: Page, moment: str, hard: bool) -> None:
    """Begin to have a sketch coloured and go away, at the end of a connection or by breaking it off."""
    body = json.dumps(page.sketch(steps="900")).encode()
    size = len(body) + (30 * MIB if moment == "uploading" else 0)
    with socket.create_connection(("127.0.0.1", page.port), timeout=PATIENCE) as sent:
        if hard:  # a reset in place of an end
            sent.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            sent.sendall(HEAD + f"{size}\r\n\r\n".encode() + body)
            if moment == "uploading":
                sent.sendall(b" " * (12 * MIB))
            if moment == "answered":
                sent.recv(100)
        except ConnectionError:
            pass  # it was refused already


@pytest.mark.parametrize("people", PEOPLE)
@pytest.mark.parametrize("moment", ["uploading", "waiting", "answered"])
def test_whoever_leaves_frees_the_place(page, people, moment):
    for _ in range(2 if people == FEW else 4):
        at_once(people, lambda number: leave(page, moment, number % 2 == 0))
    end = time.monotonic() + PATIENCE
    while (reply := page.ask("/api/colour", page.sketch())).status == 503:  # some have not been noticed yet
        assert time.monotonic() < end
        time.sleep(0.05)
    assert reply.said["image"]
    tell(f"{people} people who leave while {moment}", page)
