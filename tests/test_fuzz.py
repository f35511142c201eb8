"""Whatever is read from outside, damaged at random: an answer or one line, never a traceback, a file elsewhere, or
memory without bound.

Each target for some seconds; `make fuzz` for ten minutes each (FUZZ_SECONDS). What fails is kept in .hypothesis and
tried first the next time; mended, it becomes a test beside what it was a fault of.
"""

from __future__ import annotations

import io
import json
import os
import resource
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from ssimbad import artifacts
from ssimbad.colorize import load
from ssimbad.colorize import pictures as users
from ssimbad.errors import UserError
from ssimbad.faces import fetch, reading
from ssimbad.faces.sources import huggingface
from ssimbad.faces.sources import registry as sources
from ssimbad.methods import registry
from ssimbad.params import tree as parameters
from ssimbad.pipeline import records, written
from ssimbad.tracking import spool
from ssimbad.training import checkpoints

from . import small
from .conftest import preset_tree
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
    (folder / "x.json").write_bytes(data)
    written.read(folder / "x.json")
    with suppress(ValueError):
        artifacts.parsed_json(folder / "x.json")


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


TARGETS: dict[str, tuple[Callable[[], list[bytes]], Callable[[bytes, Path], None]]] = {
    "picture": (_images, _picture),
    "zip": (_zips, _source("folder", "faces.zip")),
    "tar": (_tars, _source("webdataset", "shards/000.tar")),
    "parallel zip": (_zips, _source("parallel", "zips/color.zip")),
    "hub's zip": (_zips, _hub("data.zip")),
    "hub's table": (lambda: [_table()], _hub("train.parquet")),
    "hub's table of names": (lambda: [b"file_name,who\na.png,1\nb.png,2\n"], _hub("metadata.csv")),
    "hub's list": (lambda: [b'{"file_name": "a.png"}\n{"file_name": "b.png"}\n'], _hub("metadata.jsonl")),
    "params": (lambda: [_tree()], _params),
    "spool": (lambda: [_spooled()], _spool),
    "record": (lambda: [json.dumps({"outputs": {"a": "b"}}).encode()], _record),
    "memory of digests": (lambda: [b'{"file": [1, 2, 3, 4, 5, "x"]}'], _hashes),
    "weights": (lambda: [_trained()[".safetensors"]], _weights(".safetensors")),
    "weights' description": (lambda: [_trained()[".json"]], _weights(".json")),
}


def _tried(read: Callable[[bytes, Path], None], data: bytes, folder: Path) -> None:
    before = {path for path in folder.parent.rglob("*") if folder not in path.parents}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read(data, folder)
    except UserError as error:
        assert str(error) and "\n" not in str(error).strip(), str(error)
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) < MEMORY
    assert {path for path in folder.parent.rglob("*") if folder not in path.parents} == before


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_input_ends_in_an_answer_or_in_one_line(tmp_path, name, capsys, monkeypatch):
    corpus, read = TARGETS[name]
    folder = tmp_path / "inside"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for data in corpus():
        _tried(read, data, folder)

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(corpus()), BLOWS)
    def attempt(data: bytes, blows: list[tuple[str, float, bytes]]) -> None:
        _tried(read, _damage(data, blows), folder)

    end, examples = time.monotonic() + SECONDS, count()
    while time.monotonic() < end:
        attempt()
        next(examples)
    with capsys.disabled():
        if SECONDS > 60:
            print(f"\n{name}: about {100 * next(examples):,} inputs in {SECONDS:g} s, {len(corpus())} in the corpus")
