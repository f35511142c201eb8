"""Whatever is read from outside, damaged at random or with odd values in its fields: an answer or one line, never a
traceback, a file elsewhere, a process, or memory without bound.

Each target for some seconds; `make fuzz` for ten minutes each (FUZZ_SECONDS). What fails is kept in .hypothesis and
tried first the next time; mended, it becomes a test beside what it was a fault of.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from ssimbad import artifacts
from ssimbad.colorize import load
from ssimbad.colorize import pictures as users
from ssimbad.errors import UserError, there
from ssimbad.faces import fetch, reading
from ssimbad.faces.sources import huggingface
from ssimbad.faces.sources import registry as sources
from ssimbad.methods import registry
from ssimbad.params import tree as parameters
from ssimbad.pipeline import cleaning, records, written
from ssimbad.pipeline.table import Instance, instances
from ssimbad.tracking import spool
from ssimbad.training import checkpoints

from . import odd, small
from .conftest import ROOT, preset_tree
from .pictures import COMPRESSIONS, face, png, zipped

SECONDS = float(os.environ.get("FUZZ_SECONDS", "1"))
PIXELS = 100_000
MEMORY = 400 * 2**20
"""More than any of these inputs, decoded, may add to the process."""


def _damage(data: bytes, blows: list[tuple[str, float, bytes]]) -> bytes:
    """Bytes overwritten, cut out, repeated or put in at places told as shares of the length."""
    for how, share, bytes_ in blows:
        at = int(share * len(data))
        match how:
            case "over":
                data = data[:at] + bytes_ + data[at + len(bytes_) :]
            case "cut":
                data = data[:at] + data[at + 16 * len(bytes_) :]
            case "end":
                data = data[:at]
            case "again":
                data = data[:at] + data[max(0, at - 16 * len(bytes_)) :]
            case "in":
                data = data[:at] + bytes_ + data[at:]
    return data


Harm = Callable[[bytes], bytes]


def _blown(blows: list[tuple[str, float, bytes]]) -> Harm:
    return lambda data: _damage(data, blows)


BLOWS = st.lists(
    st.tuples(
        st.sampled_from(["over", "over", "in", "cut", "again", "end"]),
        st.floats(0, 1),
        st.binary(min_size=1, max_size=8),
    ),
    max_size=6,
)


@cache
def _images() -> list[bytes]:
    found, colour = [], face(3)[0]
    for kind in reading.FORMATS:
        for image in (colour, colour.convert("L"), colour.convert("RGBA"), colour.convert("P")):
            buffer = io.BytesIO()
            try:
                image.save(buffer, format=kind)
            except (OSError, ValueError):
                continue  # not in this mode
            found.append(buffer.getvalue())
    turned, deep = io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.save(turned, format="JPEG", exif=exif, icc_profile=b"\0" * 200)
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(deep, format="PNG")
    return [*found, turned.getvalue(), deep.getvalue()]


@cache
def _tars() -> list[bytes]:
    """One for each format, with a name that is too long for the oldest."""
    found = []
    for format_, long in ((tarfile.USTAR_FORMAT, 0), (tarfile.GNU_FORMAT, 150), (tarfile.PAX_FORMAT, 150)):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=format_) as archive:
            for number in range(3):
                for ending, data in (("png", png(face(number)[0])), ("json", b'{"tags": "1girl"}')):
                    member = tarfile.TarInfo(f"{'x' * long}{number:05d}.{ending}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        found.append(buffer.getvalue())
    return found


def _zips() -> list[bytes]:
    """One for each compression, names of old packers in the last."""
    members = {f"train/color/{n}.png": png(face(n)[0]) for n in range(3)} | {"a/b.jpg": b"no picture"}
    packed = [zipped(members, compression) for compression in COMPRESSIONS]
    return [*packed, zipped({"a/XtX.png": png(face(0)[0])}).replace(b"XtX", b"\x82t\x82")]


@cache
def _table() -> bytes:
    rows = [{"image": {"bytes": png(face(n)[0]), "path": f"{n}.png"}, "who": "é"} for n in range(3)]
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def _hub(name: str) -> Callable[[bytes, Path], None]:
    """A copy of a hub's data set whose file of that name is damaged; all of it is read."""

    def read(data: bytes, folder: Path) -> None:
        place = folder / "hub" / name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(data)
        config = huggingface.Config(kind="huggingface", path=str(place.parent))
        for called, _ in huggingface.fetch(config, 8 * PIXELS, lambda line: None):
            fetch.inside(called).encode()

    return read


def _picture(data: bytes, _: Path) -> None:
    for read in (lambda: reading.opaque(data, PIXELS), lambda: reading.normalise(data, 16, PIXELS)):
        try:
            read()
        except reading.Unreadable:
            continue
    users.read("sketch", data)


def _source(kind: str, name: str) -> Callable[[bytes, Path], None]:
    """A source whose file of that name is damaged; all of its pictures are read."""

    def read(data: bytes, folder: Path) -> None:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        path = place if kind == "folder" else place.parent
        config = sources.get(kind).Config(kind=kind, path=str(path))
        with sources.get(kind).opened(config, path, PIXELS) as source:
            for picture in source.listing.pictures:
                for file in filter(None, (picture.content, picture.sketch, picture.mask)):
                    try:
                        reading.opaque(source.read(file), PIXELS)
                    except reading.Unreadable:
                        continue

    return read


def _params(data: bytes, folder: Path) -> None:
    (folder / "params.yaml").write_bytes(data)
    parameters.load(folder / "params.yaml")


def _spool(data: bytes, folder: Path) -> None:
    path = folder / "raw-0123456789ab.jsonl"
    path.write_bytes(data)
    os.utime(path, (0, 0))
    spool.read(path)


def _record(data: bytes, folder: Path) -> None:
    """Read as notes and as a record, compared, and believed as to what may be removed."""
    instance, given = _first()
    for place in (Path(instance.record).parent, written.NOTES):
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / f"{instance.name}.json").write_bytes(data)
    written.read(written.NOTES / f"{instance.name}.json")
    records.other_libraries(instance)
    with suppress(ValueError):
        records.changes(records.read(instance), {"inputs": {"a": "b"}})
    cleaning.run("results", given)
    cleaning.run("work", given)


@cache
def _first() -> tuple[Instance, parameters.Params]:
    """A stage that comes before all others, of the demo."""
    given = parameters.load(ROOT / "presets/demo.yaml")
    return instances(given)[0], given


def _hashes(data: bytes, folder: Path) -> None:
    """The memory of digests: a damaged one is forgotten."""
    memo, records.MEMO = records.MEMO, folder / "md5.json"
    try:
        records.MEMO.write_bytes(data)
        (folder / "file").write_bytes(b"x")
        assert records.Hashes().md5(str(folder / "file")) == "9dd4e461268c8034f5c8564e155c67a6"
    finally:
        records.MEMO = memo


def _weights(ending: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        path = folder / "seed-0.safetensors"
        for other, whole in _trained().items():
            path.with_suffix(other).write_bytes(data if other == ending else whole)
        load.trained(path, torch.device("cpu"), False)

    return read


@cache
def _recorded() -> bytes:
    """The record of that stage, as it is written."""
    instance, given = _first()
    params, outputs = records.resolved(instance, given), dict.fromkeys(instance.outputs.values(), "0" * 32)
    record = {"command": instance.command, "version": 1, "params": params, "inputs": {}, "libraries": {"numpy": "1"}}
    return json.dumps({**record, "outputs": outputs}).encode()


@cache
def _trained() -> dict[str, bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seed-0.safetensors"
        checkpoints.write_weights(path, small.build().state_dict())
        colour = {"sampler": {"name": "euler", "steps": 2}}
        made = {"setup": registry.described(small.setup()), "stage": "pretrain", "parameters": 1, "colour": colour}
        artifacts.write_json(path.with_suffix(".json"), made)
        return {ending: path.with_suffix(ending).read_bytes() for ending in (".safetensors", ".json")}


@cache
def _spooled() -> bytes:
    where = {"host": "a", "pid": 1, "started": 1.0}
    tags = {"pipeline_id": "snakemake-0123456789ab", "stage": "raw"}
    start = {"name": "raw", "tags": tags, "params": {"a": 1}, "inputs": {"b": "c"}, "where": where}
    events = [
        {"event": "start", "time": 1, **start},
        {"event": "metrics", "time": 2, "step": 0, "values": {"loss": 0.5}},
        {"event": "tags", "time": 3, "values": {"x": "y"}},
        {"event": "end", "time": 4, "status": "FINISHED"},
    ]
    return "".join(f"{json.dumps(event)}\n" for event in events).encode()


@cache
def _tree() -> bytes:
    return yaml.safe_dump(preset_tree("demo"), sort_keys=False).encode()


@dataclass(frozen=True)
class Target:
    """Whole files; what is done with one that is not; and how one gets odd values in its fields."""

    corpus: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], None]
    odd: odd.Change


TARGETS = {
    "picture": Target(_images, _picture, odd.picture),
    "zip": Target(_zips, _source("folder", "faces.zip"), odd.zip_),
    "tar": Target(_tars, _source("webdataset", "shards/000.tar"), odd.tar),
    "parallel zip": Target(_zips, _source("parallel", "zips/color.zip"), odd.zip_),
    "hub's zip": Target(_zips, _hub("data.zip"), odd.zip_),
    "hub's table": Target(lambda: [_table()], _hub("train.parquet"), odd.table),
    "hub's table of names": Target(
        lambda: [b"file_name,who\na.png,1\nb.png,2\n"], _hub("metadata.csv"), odd.table_of_text
    ),
    "hub's list": Target(
        lambda: [b'{"file_name": "a.png"}\n{"file_name": "b.png"}\n'], _hub("metadata.jsonl"), odd.json_lines
    ),
    "params": Target(lambda: [_tree()], _params, odd.yaml_text),
    "spool": Target(lambda: [_spooled()], _spool, odd.json_lines),
    "record": Target(lambda: [_recorded()], _record, odd.json_text),
    "memory of digests": Target(lambda: [b'{"file": [1, 2, 3, 4, 5, "x"]}'], _hashes, odd.json_text),
    "weights": Target(lambda: [_trained()[".safetensors"]], _weights(".safetensors"), odd.safetensors),
    "weights' description": Target(lambda: [_trained()[".json"]], _weights(".json"), odd.json_text),
}


class Watch:
    """What Python does in this process while something is read, whoever asks for it: an audit hook."""

    DEEDS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class")
    CONNECTIONS = ("socket.connect", "socket.bind")
    CHANGES = ("mkdir", "rename", "remove", "rmdir", "link", "symlink", "truncate", "chmod", "chown", "utime")
    WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.seen: list[str] = []

    def __call__(self, event: str, given: tuple[object, ...]) -> None:
        if self.folder is None:
            return
        written = event == "open" and isinstance(given[2], int) and given[2] & self.WRITING
        changed = event.removeprefix("os.") in self.CHANGES
        if event in (*self.DEEDS, *self.CONNECTIONS) or (
            (written or changed) and not all(self._inside(path) for path in given[: 1 if written else 2])
        ):
            self.seen.append(f"{event}{given}"[:300])

    def _inside(self, path: object) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return True  # an open file, or no path at all
        return Path(os.path.realpath(os.fsdecode(path))).is_relative_to(there(self.folder))


WATCH = Watch()
sys.addaudithook(WATCH)


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Assert of what is done in this block: no file is changed outside of the folder, nothing is run and no one asked,
    and it never needs much more memory than there was (Linux)."""
    before = _memory("VmRSS", anew=True)
    WATCH.seen, WATCH.folder = [], folder.resolve()
    try:
        yield
    finally:
        WATCH.folder = None
    assert not WATCH.seen, WATCH.seen
    assert _memory("VmHWM") - before < MEMORY


def _memory(what: str, anew: bool = False) -> int:
    """Bytes of this process: those it has (VmRSS), or the most it had (VmHWM) since that was begun anew."""
    if not Path("/proc/self/clear_refs").exists():
        return 0
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))


def _tried(read: Callable[[bytes, Path], None], data: bytes, folder: Path) -> None:
    with watched(folder):
        try:
            read(data, folder)
        except UserError as error:
            assert str(error) and "\n" not in str(error).strip(), str(error)


DEEDS: dict[str, Callable[[], object]] = {
    "a file elsewhere": lambda: Path("../../elsewhere").write_text("x"),
    "a folder elsewhere": lambda: Path("../elsewhere").mkdir(),
    "a name taken elsewhere": lambda: Path("../there").rename("here"),
    "a process": lambda: subprocess.run("true"),
    "a shell": lambda: os.system("true"),
    "a connection": lambda: socket.socket().connect_ex(("127.0.0.1", 9)),
    "unpickling": lambda: pickle.loads(pickle.dumps(Path)),
    "memory": lambda: bytearray(600 * 2**20).count(1),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_what_must_not_happen_is_seen(tmp_path, monkeypatch, deed):
    folder = tmp_path / "a/inside"
    folder.mkdir(parents=True)
    (tmp_path / "a/there").touch()
    monkeypatch.chdir(folder)
    bytearray(650 * 2**20).count(1)  # what was needed before does not hide what is needed now
    with pytest.raises(AssertionError), watched(folder):
        DEEDS[deed]()


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_input_ends_in_an_answer_or_in_one_line(tmp_path, name, capsys, monkeypatch):
    target = TARGETS[name]
    folder = tmp_path / "inside"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("src").symlink_to(ROOT / "src")  # there it is read which libraries a stage uses
    for data in target.corpus():
        _tried(target.read, data, folder)

    def oddly(seed: int) -> Harm:
        return lambda data: target.odd(data, random.Random(seed))

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(target.corpus()), BLOWS.map(_blown) | st.integers(0, 2**32).map(oddly))
    def attempt(data: bytes, harm: Harm) -> None:
        harmed = harm(data)
        note(f"{len(harmed)} bytes: {harmed[:3000]!r}")
        _tried(target.read, harmed, folder)

    end, examples = time.monotonic() + SECONDS, count()
    while time.monotonic() < end:
        attempt()
        next(examples)
    with capsys.disabled():
        if SECONDS > 60:
            size = len(target.corpus())
            print(f"\n{name}: about {100 * next(examples):,} inputs in {SECONDS:g} s, {size} in the corpus")
