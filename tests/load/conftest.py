"""The page and the logbook under load: many at once, and those who send too much, nonsense, or half of it.

Every request ends in an answer or in a sentence, memory has a bound, no vote is lost, and afterwards all is as before.
Each with a few people or spools; `make test-faults` with LOAD_PEOPLE (50) and LOAD_SPOOLS (10000).
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import yaml
from PIL import Image

from ..colouring import write_weights
from ..conftest import ROOT

CAMPAIGN = (pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(5400))
FEW = 4
PEOPLE = [FEW, pytest.param(int(os.environ.get("LOAD_PEOPLE", "50")), marks=CAMPAIGN)]
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


def start(folder: Path, votes: str = "votes.csv", first: str = "") -> Page:
    """On a free port; its temporary files, if any, would lie in its folder too. `first`: statements that it runs."""
    place = folder / "page"
    place.mkdir(parents=True)
    (place / "tmp").mkdir()
    weights = write_weights(place)
    study(place)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(place / "tmp"), "SSIMBAD_DEVICE": "cpu", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    program = [sys.executable, "-c", f"{first}\nfrom ssimbad.cli import main; main()"]
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


def tell(text: str, page: Page) -> None:
    print(f"{text}; memory at most {page.peak / MIB:.0f} MiB")
