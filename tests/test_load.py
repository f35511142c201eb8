"""The page and the logbook under load: many at once, and those who send too much, nonsense, or half of it.

Every request ends in an answer or in a sentence, memory has a bound, no vote is lost, and afterwards all is as before.
Each with a few people or spools; `make test-faults` with LOAD_PEOPLE (50) and LOAD_SPOOLS (10000).
"""

from __future__ import annotations

import base64
import csv
import http.client
import io
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import yaml
from PIL import Image

from ssimbad.tracking import spool, store

from .colouring import write_weights
from .conftest import ROOT

CAMPAIGN = (pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(5400))
FEW = 4
PEOPLE = [FEW, pytest.param(int(os.environ.get("LOAD_PEOPLE", "50")), marks=CAMPAIGN)]
SPOOLS = [8, pytest.param(int(os.environ.get("LOAD_SPOOLS", "10000")), marks=CAMPAIGN)]
MIB = 1 << 20
GROWTH = 900 * MIB
"""Of the server's resident memory: what it may hold of requests, the largest of them as it is read, and one answer."""
PATIENCE = 900.0
"""Seconds that a browser would not wait: the machine may be busy."""
JSON = {"Content-Type": "application/json"}


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


@dataclass
class Reply:
    status: int
    body: bytes

    @property
    def said(self) -> dict:
        """The last line of JSON."""
        return json.loads(self.body.splitlines()[-1])


@dataclass
class Page:
    """`ssimbad page` in a process of its own, and how much memory it came to have."""

    folder: Path
    weights: str
    process: subprocess.Popen
    port: int
    peak: int = 0
    growth: int = GROWTH
    """Bytes that the memory may grow by."""
    _done: threading.Event = field(default_factory=threading.Event)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(self, path: str, body: object = None, method: str | None = None, **headers: str) -> Reply:
        """`body`: JSON, or bytes as they are, or an iterable of bytes."""
        sent = json.dumps(body).encode() if isinstance(body, dict) else body
        connection = self.connect()
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, sent, JSON | headers)
            reply = connection.getresponse()
            return Reply(reply.status, reply.read())
        finally:
            connection.close()

    def sketch(self, **other: object) -> dict:
        """What the page sends for one sketch."""
        lines = Image.new("L", (25, 40), 255)
        lines.paste(0, (3, 10, 20, 13))
        reference = png(Image.new("RGB", (9, 9), (90, 30, 200)))
        asked = {"weights": self.weights, "sketch": url(png(lines)), "references": [url(reference)], "fit": "sketch"}
        return asked | {"steps": "3", "seed": "1", "names": {"sketch": "a.png"}} | other

    def memory(self) -> int:
        return psutil.Process(self.process.pid).memory_info().rss

    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}

    def log(self) -> str:
        return (self.folder.parent / "log").read_text()

    def watch(self) -> None:
        while not self._done.wait(0.02):
            try:
                self.peak = max(self.peak, self.memory())
            except psutil.Error:
                return

    def end(self) -> None:
        self._done.set()
        self.process.terminate()
        self.process.wait(PATIENCE)


def study(folder: Path, sets: int = 6) -> Path:
    made = []
    for i in range(sets):
        for name in ("sketch", "reference", "ours", "theirs"):
            Image.new("L", (8, 8), i).save(folder / f"{name}-{i}.png")
        answers = {row: f"{row}-{i}.png" for row in ("ours", "theirs")}
        made.append(
            {"name": f"s{i}", "sketch": f"sketch-{i}.png", "reference": f"reference-{i}.png", "answers": answers}
        )
    (folder / "study.yaml").write_text(yaml.safe_dump({"per_rater": sets, "sets": made}))
    return folder / "study.yaml"


def start(folder: Path, votes: str = "votes.csv") -> Page:
    """On a free port; its temporary files, if any, would lie in its folder too."""
    place = folder / "page"
    place.mkdir(parents=True)
    (place / "tmp").mkdir()
    weights = write_weights(place)
    study(place)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(place / "tmp"), "SSIMBAD_DEVICE": "cpu", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    program = [sys.executable, "-c", "from ssimbad.cli import main; main()"]
    command = [*program, "page", "--weights", weights.name, "--study", "study.yaml", "--votes", votes, "--port", "0"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=subprocess.STDOUT)
    end = time.monotonic() + PATIENCE
    while not (named := re.search(r"page: http://127\.0\.0\.1:(\d+)", (folder / "log").read_text())):
        assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
        time.sleep(0.1)
    made = Page(place, weights.name, process, int(named[1]))
    threading.Thread(target=made.watch, daemon=True).start()
    return made


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Page]:
    """One for all tests: what one leaves behind, the next would see."""
    made = start(tmp_path_factory.mktemp("load"))
    try:
        made.ask("/api/example/0/sketch")  # reads the style
        yield made
    finally:
        made.end()


@pytest.fixture
def page(running) -> Iterator[Page]:
    """The page, which after the storm answers as before, has kept nothing and written no fault down."""
    calm, there, said = running.ask("/api/colour", running.sketch()), running.files(), len(running.log())
    assert calm.status == 200 and calm.said["image"]
    running.peak, running.growth = (before := running.memory()), GROWTH
    yield running
    assert running.process.poll() is None, running.log()
    assert running.ask("/api/colour", running.sketch()).body == calm.body
    assert running.files() - {"votes.csv", ".votes.csv.lock"} <= there
    assert running.peak - before < running.growth, f"{(running.peak - before) / MIB:.0f} MiB more"
    assert running.log()[said:] == ""


def at_once(count: int, what: Callable[[int], object]) -> list:
    """What each of so many gets who all begin at the same moment."""
    ready = threading.Barrier(count)

    def one(number: int) -> object:
        ready.wait()
        return what(number)

    with ThreadPoolExecutor(count) as people:
        return list(people.map(one, range(count)))


def require_sentence(reply: Reply, *statuses: int) -> str:
    """An error that a person can read: one line, no markup, no name of an exception."""
    assert reply.status in statuses, (reply.status, reply.body[:300])
    said = reply.said["error"]
    assert 10 < len(said) < 2000 and "\n" not in said and "Error" not in said, said
    return said


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
    _tell(f"{people} people: {len(answered)} answers, {people - len(answered)} sentences", page)


def _tell(text: str, page: Page) -> None:
    print(f"{text}; memory at most {page.peak / MIB:.0f} MiB")


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
    _tell(f"{len(replies)} uploads of {size // MIB} MiB", page)


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
    _tell(f"{people} people with {len(names)} bombs", page)


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
    _tell("40 million pixels", page)


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
    _tell(f"{people} people with nonsense", page)


def raw(page: Page, data: bytes) -> bytes:
    """What is said to bytes that are perhaps no HTTP."""
    with socket.create_connection(("127.0.0.1", page.port), timeout=PATIENCE) as sent:
        try:
            sent.sendall(data)
            sent.shutdown(socket.SHUT_WR)
            return sent.recv(1000)
        except (ConnectionError, OSError):
            return b""


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
    _tell(f"{people} people who leave while {moment}", page)


def _voted(file: Path) -> list[tuple[str, str, str]]:
    with file.open() as opened:
        return [(vote["rater"], vote["set"], vote["question"]) for vote in csv.DictReader(opened)]


def vote_all(page: Page, rater: str, seed: int = 0) -> list[tuple[str, str, str]]:
    """Every question of every set in an order of its own; returns those that were taken."""
    shown = page.ask(f"/api/study?rater={rater}").said
    asked = [(rater, one["name"], question) for one in shown["sets"] for question in shown["questions"]]
    random.Random(seed).shuffle(asked)
    taken = []
    for name, one, question in asked:
        sent = {"rater": name, "set": one, "question": question, "place": "0"}
        reply = page.ask("/api/study/vote", sent)
        if reply.status == 200:
            taken.append((name, one, question))
        else:
            assert "answered" in require_sentence(reply, 400)
    return taken


@pytest.mark.parametrize("people", PEOPLE)
def test_two_browsers_of_each_rater_vote_at_once_and_no_vote_is_lost(page, people):
    before = set(_voted(page.folder / "votes.csv")) if (page.folder / "votes.csv").exists() else set()
    taken = at_once(2 * people, lambda number: vote_all(page, f"at-once-{people}-{number // 2}", number))
    votes = [vote for some in taken for vote in some]
    kept = [vote for vote in _voted(page.folder / "votes.csv") if vote not in before]
    assert sorted(kept) == sorted(votes) and len(votes) == people * 6 * 2 == len(set(votes))
    _tell(f"{people} raters in two browsers each: {len(votes)} votes", page)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(3))
def test_votes_that_were_taken_outlive_two_pages_that_are_killed(tmp_path, number):
    """Two servers of one file of votes; both are killed while people vote."""
    votes = tmp_path / "votes.csv"
    pages = [start(tmp_path / name, str(votes)) for name in ("one", "two")]
    taken: list[tuple[str, str, str]] = []

    def rate(rater: int) -> None:
        for turn in range(200):
            name = f"r{rater // 2}-{turn}"
            sent = {"rater": name, "set": f"s{turn % 6}", "question": "colour", "place": "0"}
            try:
                if pages[rater % 2].ask("/api/study/vote", sent).status == 200:
                    taken.append((name, f"s{turn % 6}", "colour"))
            except (OSError, http.client.HTTPException):
                return

    try:
        with ThreadPoolExecutor(8) as people:
            all_of_them = [people.submit(rate, rater) for rater in range(8)]
            while len(taken) < 40 + 60 * number:
                time.sleep(0.01)
            for page in pages:
                page.process.send_signal(signal.SIGKILL)
            for one in all_of_them:
                one.result()
    finally:
        for page in pages:
            page.end()
    kept = _voted(votes)
    assert set(taken) <= set(kept) and len(kept) == len(set(kept)) == len(taken) + len(set(kept) - set(taken))
    print(f"{len(taken)} votes answered as taken, {len(kept)} in the file")


def write_spools(count: int) -> dict[str, int]:
    """{name: events} of so many runs, twenty to a pipeline execution, as stages of another machine write them."""
    spool.ROOT.mkdir(parents=True)
    where, made = {"host": "elsewhere", "pid": 1, "started": 1.0}, {}
    for i in range(count):
        tags = {"pipeline_id": f"snakemake-1-{i // 20 + 1}", "stage": "evaluate"}
        inputs = {f"data/{k}.npy": "0" * 32 for k in range(3)}
        begin = {"name": f"evaluate-{i}", "tags": tags, "params": {f"p{k}": k for k in range(8)}, "inputs": inputs}
        events = [{"event": "start", "time": 1, "where": where, **begin}]
        events += [{"event": "metrics", "time": 2 + s, "step": s, "values": {"loss": 1 / (s + 1)}} for s in range(5)]
        events += [{"event": "end", "time": 10, "status": "FINISHED"}]
        text = "".join(f"{json.dumps(event)}\n" for event in events)
        (spool.ROOT / f"evaluate-{i}.jsonl").write_text(text)
        made[f"evaluate-{i}"] = len(events)
    return made


@pytest.mark.parametrize("count", SPOOLS)
def test_many_spools_are_imported_while_somebody_browses(logbook, count):
    wanted, seen, done = write_spools(count), [], threading.Event()
    before = psutil.Process().memory_info().rss

    def browse() -> None:
        opened = store.Store()
        while not done.is_set():
            found = opened.client.search_runs([opened.experiment], "tags.stage = 'evaluate'", max_results=100)
            for run in found[:5]:
                opened.client.get_metric_history(run.info.run_id, "loss")
            seen.append(len(found))
            done.wait(0.05)

    with ThreadPoolExecutor(1) as readers:
        reading = readers.submit(browse)
        begin = time.monotonic()
        try:
            assert store.import_all() == count
        finally:
            done.set()
        reading.result()
    took, more = time.monotonic() - begin, psutil.Process().memory_info().rss - before
    require_imported(wanted)
    assert len(seen) > 1 and seen == sorted(seen) and more < 500 * MIB
    assert store.import_all() == 0
    require_imported(wanted)
    print(f"{count} spools in {took:.0f} s, read {len(seen)} times meanwhile, {more / MIB:.0f} MiB more")


def require_imported(wanted: dict[str, int]) -> None:
    """All runs are there once, whole and ended, and so are their executions; no spool waits."""
    opened, found, token = store.Store(), {}, None
    while token != "":
        page = opened.client.search_runs([opened.experiment], max_results=1000, page_token=token)
        for run in page:
            assert run.info.run_name not in found and run.info.status == "FINISHED"
            found[run.info.run_name] = run
        token = page.token or ""
    children = {name: int(run.data.tags["events"]) for name, run in found.items() if "spool_id" in run.data.tags}
    assert children == wanted and len(found) == len(wanted) + -(-len(wanted) // 20)
    sample = random.Random(0).sample(sorted(children), min(20, len(children)))
    for name in sample:
        history = opened.client.get_metric_history(found[name].info.run_id, "loss")
        assert [point.step for point in history] == list(range(5)) and len(found[name].data.params) == 8
    assert not list(spool.ROOT.glob("*.jsonl")) and len(list(spool.ROOT.glob("imported/*.jsonl"))) == len(wanted)
