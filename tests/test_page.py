"""The page's server: answers as the painter gives them, errors as sentences, votes blind."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from filelock import FileLock
from PIL import Image

from ssimbad.colorize import user
from ssimbad.colorize.painter import Painter
from ssimbad.errors import UserError
from ssimbad.web import connections, server
from ssimbad.web import study as study_module
from ssimbad.web.study import Study


def url(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def pixels(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


@pytest.fixture
def site(weights, study, tmp_path):
    """A running page; what it was asked and answered is JSON."""
    made = server.app(server.Studio([weights]), Study(study, tmp_path / "reports/votes.csv"))
    running, door = uvicorn.Server(connections.config(made)), connections.Door()
    door.bind(("127.0.0.1", 0))
    port = door.getsockname()[1]
    thread = threading.Thread(target=running.run, args=[[door]])
    thread.start()
    while not running.started:
        time.sleep(0.01)

    def ask(path, body=None, **headers):
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | headers
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
        try:
            with urllib.request.urlopen(request) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    ask.port = port
    yield ask
    running.should_exit = True
    thread.join()


@pytest.fixture
def asked(weights):
    lines = np.full((40, 25), 255, np.uint8)
    lines[10:13, 3:20] = 0
    return {
        "weights": weights.as_posix(), "sketch": url(lines), "references": [url(np.full((9, 9, 3), 90, np.uint8))],
        "names": {"sketch": "my drawing.png", "references": ["r.png"]}, "steps": "3", "seed": "1", "fit": "sketch",
    }  # fmt: skip


def test_an_answer_is_the_painters_with_pictures_on_the_way(site, asked, weights, tmp_path):
    status, said = site("/api/colour", asked)
    *steps, answer = [json.loads(line) for line in said.splitlines()]
    sketch, reference = pixels(asked["sketch"]), pixels(asked["references"][0])
    wanted = Painter(weights, "cpu").colour(sketch, reference, steps=3, seed=1, fit="sketch")
    assert status == 200 and np.array_equal(pixels(answer["image"]), wanted.image)
    assert np.array_equal(pixels(answer["layer"]), wanted.layer) and np.array_equal(pixels(answer["seen"]), wanted.seen)
    assert [(step["made"], step["calls"]) for step in steps] == [(1, 3), (2, 3), (3, 3), (3, 3)]
    assert pixels(steps[0]["picture"]).shape == (16, 16, 3)
    assert answer["repeat"]["command"] == (
        f"ssimbad colorize --weights {weights.as_posix()} --sketch 'my drawing.png' --reference r.png --steps 3"
        " --seed 1 --fit sketch --out coloured.png"
    )
    Image.fromarray(sketch).save(tmp_path / "my drawing.png")
    Image.fromarray(reference).save(tmp_path / "r.png")
    (tmp_path / "coloured.json").write_text(json.dumps(answer["repeat"]))
    user.command({"out": tmp_path / "again.png"}, repeated=tmp_path / "coloured.json")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "again.png")), wanted.image)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sketch": None}, "sketch: none is given"),
        ({"sketch": "data:,x!"}, "sketch: cannot be read"),
        ({"sketch": "data:;base64,eHl6"}, "sketch: not an image"),
        ({"references": []}, "reference: none is given"),
        ({"weights": "/etc/passwd"}, "weights /etc/passwd: not among those at hand"),
        ({"steps": "many"}, "steps many: a whole number"),
        ({"steps": "0"}, "steps 0: expected 1 to 1000"),
        ({"options": {"guidance_scale": "[much"}}, "options guidance_scale: "),
    ],
)
def test_errors_are_sentences(site, asked, wrong, said):
    status, told = site("/api/colour", asked | wrong)
    last = json.loads(told.splitlines()[-1])
    assert last["error"].startswith(said) and last.get("end", status == 400)


def test_only_this_page_is_served_and_only_so_much(site, asked, monkeypatch):
    assert site("/", Host="evil.example")[0] == 400
    assert site("/api/colour", asked, **{"Content-Type": "text/plain"})[0] == 400
    assert site("/api/colour", b"[1]")[0] == site("/api/colour", b"{")[0] == 400
    monkeypatch.setattr(server, "MOST_BYTES", 100)
    status, said = site("/api/colour", asked)
    assert status == 413 and "too large" in json.loads(said)["error"]
    status, page = site("/")
    assert status == 200 and b"http://" not in page and b"https://" not in page


def sent(site, asked, cut=0) -> socket.socket:
    """A browser that has sent its request, without the last bytes of it, and reads nothing."""
    body = json.dumps(asked).encode()
    head = (
        f"POST /api/colour HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    opened.settimeout(120)
    opened.connect(("127.0.0.1", site.port))
    opened.sendall(f"{head}\r\n\r\n".encode() + body[: len(body) - cut])
    return opened


def test_an_upload_that_stops_frees_its_place(site, asked, monkeypatch):
    monkeypatch.setattr(server, "PATIENCE", 0.5)
    monkeypatch.setattr(server, "WAITING", 1)
    with sent(site, asked, cut=5) as opened:
        told = ""
        while not told.endswith("}") and (part := opened.recv(5000)):
            told += part.decode()
    assert told.startswith("HTTP/1.1 408") and "nothing more came" in told
    assert site("/api/colour", asked)[0] == 200


def test_a_refused_upload_that_takes_its_time_is_told(site, asked, monkeypatch):
    monkeypatch.setattr(server, "MOST_BYTES", 100)
    monkeypatch.setattr(connections, "PATIENCE", 0.3)
    with sent(site, asked | {"sketch": "x" * 5_000_000}, cut=4_000_000) as opened:
        for _ in range(20):
            time.sleep(0.1)
            opened.sendall(b"x" * 200_000)
        assert opened.recv(5000).startswith(b"HTTP/1.1 413")


def test_an_upload_by_single_bytes_frees_its_place(site, asked, monkeypatch):
    monkeypatch.setattr(server, "PATIENCE", 0.5)
    with sent(site, asked, cut=100) as opened:
        opened.settimeout(0.1)
        told, begun = b"", time.monotonic()
        while not told and time.monotonic() < begun + 60:
            with suppress(OSError):
                opened.send(b" ")
            with suppress(TimeoutError):
                told = opened.recv(5000)
    assert told.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET"])
def test_a_connection_without_a_request_is_closed(site, monkeypatch, begun):
    """Though some more of it comes now and then, and though one was answered before."""
    monkeypatch.setattr(connections, "PATIENCE", 0.5)
    with socket.create_connection(("127.0.0.1", site.port), timeout=0.05) as opened:
        begin, told = time.monotonic(), b"-"
        opened.sendall(begun)
        while told and time.monotonic() < begin + 60:
            with suppress(TimeoutError):
                told = opened.recv(1 << 20)
                continue
            with suppress(ConnectionError):
                opened.sendall(begun and b"x")
        assert time.monotonic() > begin + 0.4
    assert not told and site("/")[0] == 200


def test_who_takes_no_answers_is_left_and_who_takes_them_slowly_is_not(site, monkeypatch):
    monkeypatch.setattr(connections, "PATIENCE", 0.5)
    asked = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with ExitStack() as both:
        slow, none = (both.enter_context(socket.socket()) for _ in range(2))
        for opened in (slow, none):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
            opened.settimeout(120)
            opened.connect(("127.0.0.1", site.port))
            opened.sendall(asked * 600)  # some 10 MB of answers, more than the system takes
        taken, pages = time.monotonic(), 0
        while pages < 600:
            part = slow.recv(1 << 16)
            assert part, "left though it reads"
            pages += part.count(b"HTTP/1.1 200")
            time.sleep(0.005)
        assert time.monotonic() > taken + 0.5
        rest = 0
        with suppress(ConnectionError):
            while part := none.recv(1 << 20):
                rest += part.count(b"HTTP/1.1 200")
        assert rest < 600


def large(studio, asked, pictures, progress) -> dict:
    """An answer of 32 MiB, more than the system takes without a reader, and pictures on the way to it."""
    for made in range(6):
        progress(made, 6, np.random.default_rng(made).integers(0, 256, (512, 512, 3), np.uint8))
    return {"image": "x" * (32 << 20)}


def test_a_reader_who_stops_holds_up_nobody(site, asked, monkeypatch):
    monkeypatch.setattr(connections, "PATIENCE", 3600.0)
    monkeypatch.setattr(server, "answer", large)
    with sent(site, asked) as opened:
        opened.recv(100)
        status, told = site("/api/colour", asked)
        assert status == 200 and len(told) > 32 << 20


def test_a_reader_who_stops_holds_up_nobody_for_long_though_no_more_can_be_held(site, asked, monkeypatch, capfd):
    """What waits for him is then given up, and nothing said where the page was started."""
    monkeypatch.setattr(connections, "PATIENCE", 1.0)
    monkeypatch.setattr(server, "HELD", 40 << 20)
    monkeypatch.setattr(server, "answer", large)
    with sent(site, asked) as first, sent(site, asked) as second:
        for opened in (first, second):
            opened.recv(100)
        assert site("/api/colour", asked)[0] == 200
        for opened in (first, second):
            rest = 0
            with suppress(ConnectionError):
                while part := opened.recv(1 << 20):
                    rest += len(part)
            assert rest < 32 << 20
    assert capfd.readouterr().err == ""


def test_a_reader_may_be_slow(site, asked, monkeypatch, capfd):
    """Of what the system takes ahead a third must be read before anybody can see it."""
    monkeypatch.setattr(connections, "PATIENCE", 1.0)
    monkeypatch.setattr(server, "answer", lambda *_: {"image": "x" * (12 << 20)})
    with sent(site, asked) as opened:
        for _ in range(60):
            time.sleep(0.1)
            left = 32 << 10
            while left:
                part = opened.recv(left)
                assert part, "left though it reads"
                left -= len(part)
    assert capfd.readouterr().err == ""


def test_the_rest_of_a_refused_upload_is_not_taken_for_ever(site, monkeypatch):
    monkeypatch.setattr(connections, "PATIENCE", 0.2)
    head = b"POST /api/state HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", site.port), timeout=60) as opened:
        opened.sendall(head)
        begun = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() < begun + 60:
                opened.sendall(b"%x\r\n%b\r\n" % (1 << 14, bytes(1 << 14)))
                time.sleep(0.01)


def test_between_two_parts_of_an_answer_the_loop_learns_who_has_gone():
    """Else all parts are written, one by one, against a connection that is no more, and the system complains."""

    async def lines():
        for _ in range(3):
            yield b"part"

    async def told() -> list[str]:
        happened = []

        async def receive():
            await asyncio.Event().wait()

        async def send(message):
            happened.append("sent")
            asyncio.get_running_loop().call_soon(happened.append, "heard")

        await server.Streamed(lines(), ExitStack())({"type": "http"}, receive, send)
        return happened

    assert asyncio.run(told())[:6] == ["sent", "heard"] * 3


def test_when_all_places_are_taken_that_is_said_at_once(site, asked, monkeypatch):
    monkeypatch.setattr(server, "WAITING", 1)
    with sent(site, asked, cut=5):
        while (answer := site("/api/colour", asked))[0] == 200:  # until the other has come
            time.sleep(0.01)
        assert answer[0] == 503 and "too many are waiting" in json.loads(answer[1])["error"]
        assert site(f"/api/options?weights={asked['weights']}")[0] == site("/")[0] == 200
    monkeypatch.setattr(server, "WAITING", 16)
    monkeypatch.setattr(server, "HELD", 100)
    assert site("/api/colour", asked)[0] == 503


def test_what_can_be_chosen_is_told(site, asked):
    state = json.loads(site("/api/state")[1])
    assert state == {"weights": [asked["weights"]], "notes": {}, "examples": 4, "study": True}
    options = json.loads(site(f"/api/options?weights={asked['weights']}")[1])
    assert (
        options["sampler"] == "euler"
        and options["samplers"]["heun"] == 1000
        and options["takes"] == ["sketch", "reference"]
    )


def test_examples_are_drawn(site):
    sketch, reference = (Image.open(io.BytesIO(site(f"/api/example/1/{kind}")[1])) for kind in ("sketch", "reference"))
    assert sketch.mode == "L" and reference.mode == "RGB" and sketch.size == reference.size
    assert 0.5 < np.mean(np.asarray(sketch) == 255) < 0.99
    assert site("/api/example/4/sketch")[0] == site("/api/example/1/face")[0] == 400


def test_votes_are_blind_in_an_order_of_their_own_and_kept(site, tmp_path):
    orders = {}
    for rater in [f"r{i}" for i in range(12)]:
        shown = json.loads(site(f"/api/study?rater={rater}")[1])
        assert len(shown["sets"]) == 2 and "theirs" not in json.dumps(shown)
        for one in shown["sets"]:
            path = f"/api/study/picture?rater={rater}&set={one['name']}&place="
            levels = [np.asarray(Image.open(io.BytesIO(site(path + str(place))[1])))[0, 0] for place in (0, 1)]
            orders.setdefault(one["name"], set()).add(levels[0] < levels[1])
            theirs = str(int(np.argmax(levels)))
            for question in shown["questions"]:
                vote = {"rater": rater, "set": one["name"], "question": question, "place": theirs}
                assert site("/api/study/vote", vote)[0] == 200
                assert "answered" in json.loads(site("/api/study/vote", vote)[1])["error"]
    assert all(len(order) == 2 for order in orders.values()) and len(orders) == 3
    with (tmp_path / "reports/votes.csv").open() as file:
        votes = list(csv.DictReader(file))
    assert len(votes) == 12 * 2 * 2 and {vote["row"] for vote in votes} == {"theirs"}
    colour, _ = json.loads(site("/api/study/preferences")[1])
    assert colour["votes"] == 24 and colour["raters"] == 12 and colour["p"] < 1e-5
    assert [row["chosen"] for row in colour["rows"]] == [0, 24]
    done = json.loads(site("/api/study?rater=r0")[1])["sets"]
    assert all(one["done"] == ["colour", "geometry"] for one in done)
    for wrong in ({"set": "s9"}, {"question": "x"}, {"place": "2"}, {"rater": "../x"}):
        assert (
            site("/api/study/vote", {"rater": "new", "set": "s0", "question": "colour", "place": "0"} | wrong)[0] == 400
        )


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["a folder", "a pipe"])
def test_votes_that_cannot_be_read_are_told_so_at_the_start_and_on_the_page(site, study, tmp_path, make):
    votes = tmp_path / "reports/votes.csv"
    votes.parent.mkdir()
    make(votes)
    with pytest.raises(UserError, match=r"votes\.csv: no file; .*--votes"):
        Study(study, votes)
    given = [{"rater": "r", "set": f"s{i}", "question": "colour", "place": "0"} for i in range(3)]  # one is not shown
    replies = [site("/api/study?rater=r"), site("/api/study/preferences")]
    replies += [reply for vote in given if b"not shown" not in (reply := site("/api/study/vote", vote))[1]]
    for status, said in replies:
        assert status == 400 and "votes.csv: no file" in json.loads(said)["error"]


def test_a_vote_that_another_page_keeps_waiting_is_told_so_and_keeps_nobody_else(site, tmp_path, monkeypatch):
    """As one does that was put to sleep while it wrote."""
    monkeypatch.setattr(study_module, "PATIENCE", 2.0)
    vote = {"rater": "r", "set": "s0", "question": "colour", "place": "0"}
    vote["set"] = json.loads(site("/api/study?rater=r")[1])["sets"][0]["name"]
    (tmp_path / "reports").mkdir()
    with FileLock(tmp_path / "reports/.votes.csv.lock"), ThreadPoolExecutor(1) as rater:
        voting = rater.submit(site, "/api/study/vote", vote)
        assert site("/api/state")[0] == 200 and not voting.done()
        status, said = voting.result()
    assert status == 400 and "another page holds it" in json.loads(said)["error"]
    assert not (tmp_path / "reports/votes.csv").exists()
    assert site("/api/study/vote", vote)[0] == 200


def test_a_start_that_cannot_be_is_one_line(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"gone\.safetensors: no such weights"):
        server.serve([Path("gone.safetensors")], None, Path("votes.csv"), 0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match=r"--port \d+: cannot be used"):
            server.serve([weights], None, Path("votes.csv"), taken.getsockname()[1])
