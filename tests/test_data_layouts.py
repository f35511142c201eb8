"""Every layout in which data come, by the stages fetch and faces: which files become faces, which their sketches."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import threading
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssimbad import artifacts
from ssimbad.errors import UserError, there
from ssimbad.faces import fetch, stage
from ssimbad.faces.reading import normalise, normalise_grey
from ssimbad.faces.sources import registry
from ssimbad.params.blocks import Data
from ssimbad.params.view import View
from ssimbad.runtime.job import Job

from .pictures import beside, face, faces, fill, png, sketches, tarred, zipped

SIDE, LIMIT = 32, 10**5
N = 6
DECLARED = tuple(f"data.{key}" for key in Data.model_fields if key != "size")


class Read:
    """What the stages made of a source."""

    def __init__(self, source: Any, out: Path, path: Path | None = None, **data: Any) -> None:
        class Node:
            pass

        if isinstance(source, dict):
            source = registry.get(source["kind"]).Config.model_validate(source)
        values = (
            dict(path=path and str(path), train=None, val=0, test=3, seed=0, test_list=None, max_pixels=LIMIT) | data
        )
        node = Node()
        node.data = Data.model_construct(source=source, native_size=SIDE, size=16, **values)
        view, job = View(node, DECLARED), Job("faces", out)
        config = registry.config(source, node.data.path)
        if registry.of(config).fetched(config):
            raw = out / "fetched.zip"
            fetch.run(view, {}, {"zip": raw}, job)
        else:
            raw = Path(config.path)
        outputs = {s: out / f"{s}.npy" for k in ("", "given_") for s in (f"{k}train", f"{k}val", f"{k}test")}
        outputs |= {name: out / f"{name}.csv" for name in ("manifest", "quarantine")}
        stage.run(view, {"raw": raw}, outputs, job)
        self.rows, self.quarantine = (list(_table(outputs[name])) for name in ("manifest", "quarantine"))
        self.names = {row["source"] for row in self.rows}
        self._arrays = {name: artifacts.read_array(path) for name, path in outputs.items() if path.suffix == ".npy"}

    def face(self, name: str) -> np.ndarray:
        row = next(row for row in self.rows if row["source"] == name)
        mine = [r["source"] for r in self.rows if r["split"] == row["split"]]
        return self._arrays[row["split"]][mine.index(name)]

    def sketch(self, name: str) -> np.ndarray:
        row = next(row for row in self.rows if row["source"] == name)
        mine = [r["source"] for r in self.rows if r["split"] == row["split"] and r["sketch"]]
        return self._arrays[f"given_{row['split']}"][mine.index(name)]

    def holds(self, name: str, number: int, drawn: bool = True) -> bool:
        """Whether that file is face `number`, with its sketch if it has one."""
        image, lines = map(png, face(number))
        same = (self.face(name) == normalise(image, SIDE, LIMIT)[0]).all()
        return same and (not drawn or (self.sketch(name) == normalise_grey(lines, SIDE, LIMIT)[0]).all())


def _table(path: Path):
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


NAMES = [f"{n:04}" for n in range(N)]
FACES, SKETCHES = faces(*range(N)), sketches(*range(N))


def of(form: str, pictures: list[bytes] = FACES) -> dict[str, bytes]:
    return {form.format(name): data for name, data in zip(NAMES, pictures, strict=True)}


FOLDERS = {  # layout: (files, form of a face's name)
    "Kaggle, one folder": (of("data/data/{}.png"), "data/data/{}.png"),
    "the AnimeDiffusion release": (
        of("train/reference/{}.png") | of("train/condition/{}.png", SKETCHES), "train/reference/{}.png",
    ),
    "the authors' copy": (of("reference/{}.jpg") | of("sketch/{}.jpg", SKETCHES), "reference/{}.jpg"),
    "a folder per character": (
        of("reference/mei/{}.png") | of("sketch/mei/{}.png", SKETCHES), "reference/mei/{}.png",
    ),
    "Kaggle, side by side": (
        {f"data/train/{n}.png": beside(*face(i)) for i, n in enumerate(NAMES)} | {"data/colorgram/0000.json": b"{}"},
        "data/train/{}.png",
    ),
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", FOLDERS)
def test_folders_and_zips(tmp_path, layout, packed):
    files, form = FOLDERS[layout]
    path = tmp_path / ("a.zip" if packed else "a")
    path.write_bytes(zipped(files)) if packed else fill(path, files)
    found = Read("folder", tmp_path / "out", path)
    assert found.names == {form.format(name) for name in NAMES} and found.quarantine == []
    drawn = layout != "Kaggle, one folder"
    assert all(found.holds(form.format(name), n, drawn) for n, name in enumerate(NAMES))


def test_clips_with_few_colours_and_many_lines_are_refused(tmp_path):
    files = {"a/gt/0000.png": FACES[0]} | of("a/line/{}.png", SKETCHES)
    with pytest.raises(UserError, match=r"5 of 6 sketches belong to no face, such as a/line/0001\.png"):
        Read("folder", tmp_path / "out", fill(tmp_path / "clips", files))


def test_parallel_zips(tmp_path):
    for side, pictures in (("color", FACES), ("sketch", SKETCHES), ("mask", SKETCHES)):
        half = N // 2
        for n, part in ((1, slice(0, half)), (2, slice(half, N))):
            members = dict(zip((f"{name}.png" for name in NAMES[part]), pictures[part], strict=True))
            fill(tmp_path / "raw", {f"{side}/{n:04}.zip": zipped(members)})
    found = Read({"kind": "parallel", "path": str(tmp_path / "raw")}, tmp_path / "out")
    assert found.names == {f"color/{1 + n // half:04}/{name}.png" for n, name in enumerate(NAMES)}
    assert all(found.holds(f"color/{1 + n // half:04}/{name}.png", n) for n, name in enumerate(NAMES))
    assert {row["mask"] for row in found.rows} == {row["source"].replace("color", "mask") for row in found.rows}
    assert "identity" not in found.rows[0], "0001 and 0002 are no characters"
    for name, said in (("none", "none: nothing is there"), ("empty", r"empty: no \.zip there")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=said):
            Read({"kind": "parallel", "path": str(tmp_path / name)}, tmp_path / "out")


SHARD = of("{}.jpg") | of("{}.sketch.png", SKETCHES) | of("{}.json", [b"{}"] * N)


def test_webdataset(tmp_path):
    fill(
        tmp_path / "raw",
        {"00000.tar": tarred(SHARD), "00000.idx": b"x", "00001.tar": tarred({"0009.jpg": faces(9)[0]})},
    )
    found = Read({"kind": "webdataset", "path": str(tmp_path / "raw")}, tmp_path / "out")
    assert found.names == {*(f"00000/{name}.jpg" for name in NAMES), "00001/0009.jpg"} and not found.quarantine
    assert all(found.holds(f"00000/{name}.jpg", n) for n, name in enumerate(NAMES))
    single = Read({"kind": "webdataset", "path": str(tmp_path / "raw/00000.tar")}, tmp_path / "single")
    assert len(single.rows) == N


def test_webdataset_of_several_pictures_a_sample(tmp_path):
    files = of("{}.jpg") | of("{}.ink.png", SKETCHES)
    path = fill(tmp_path, {"a.tar": tarred(files)}) / "a.tar"
    with pytest.raises(UserError, match=r"sample a/0000 has several pictures \(jpg, ink\.png\).*face: jpg"):
        Read({"kind": "webdataset", "path": str(path)}, tmp_path / "out")
    found = Read({"kind": "webdataset", "path": str(path), "face": "jpg", "sketch": "ink.png"}, tmp_path / "out")
    assert all(found.holds(f"a/{name}.jpg", n) for n, name in enumerate(NAMES)) and not found.quarantine
    found = Read({"kind": "webdataset", "path": str(path), "face": "jpg"}, tmp_path / "out")
    assert len(found.rows) == len(found.quarantine) == N
    (tmp_path / "a.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UserError, match=r"a\.tar: no readable \.tar"):
        Read({"kind": "webdataset", "path": str(path)}, tmp_path / "out")


@contextlib.contextmanager
def served(handler: Any):
    """The address of a server on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def test_webdataset_from_elsewhere(tmp_path):
    fill(tmp_path / "www", {"00000.tar": tarred(SHARD)})
    with served(partial(Quiet, directory=str(tmp_path / "www"))) as url:
        source = {"kind": "webdataset", "urls": [f"{url}/00000.tar"]}
        found = Read(source, tmp_path / "out")
        assert all(found.holds(f"00000/{name}.jpg", n) for n, name in enumerate(NAMES))
        with pytest.raises(UserError, match=r"urls: .*/none\.tar cannot be had"):
            Read({"kind": "webdataset", "urls": [f"{url}/none.tar"]}, tmp_path / "none")
    with pytest.raises(UserError, match="cannot be had"):
        Read(source, tmp_path / "again")
    assert not list((tmp_path / "again").glob("*")) and not list((tmp_path / "none").glob("*"))


class CutOff(BaseHTTPRequestHandler):
    """Says how long the next piece of a tar is, and goes away within it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n" % 10**6 + tarred(SHARD)[:1500])
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


def test_a_server_that_goes_away_is_told_in_a_line(tmp_path):
    with (
        served(CutOff) as url,
        pytest.raises(UserError, match=r"urls: .*/0\.tar cannot be had \(.*\); mend the address"),
    ):
        Read({"kind": "webdataset", "urls": [f"{url}/0.tar"]}, tmp_path / "out")


POSTS = {  # number: (rating, score, tags, characters)
    1000: ("s", 10, "1girl face", "mei"),
    2001: ("s", 5, "1girl face", "mei rin"),
    3002: ("e", 9, "1girl face", ""),
    4003: ("q", 9, "1girl hands", ""),
    5004: ("s", -2, "1girl face", ""),
    6005: ("s", 3, "1girl face comic", ""),
}


def danbooru(folder: Path) -> Path:
    lines = [
        {"id": post if post % 2 else str(post), "rating": rating, "score": score, "tag_string": f"{tags} {who}".strip(),
         "tag_string_character": who, "image_width": 900, "image_height": 400 + post}
        for post, (rating, score, tags, who) in POSTS.items()
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    older = {"id": "7006", "rating": "s", "score": "8", "image_width": "64", "image_height": "64",
             "tags": [{"name": "face", "category": "0"}, {"name": "rin", "category": "4"}]}  # fmt: skip
    pictures = faces(*range(8))
    files = {f"512px/{p % 1000:04}/{p}.jpg": data for p, data in zip([*POSTS, 7006, 8007], pictures, strict=True)}
    files |= {"512px/0001/77.jpg": pictures[0], "original/0000/1000.png": pictures[0]}
    files |= {"metadata/posts000000000000.json": text.encode(), "metadata/posts1.json": json.dumps(older).encode()}
    return fill(folder, files)


def test_danbooru(tmp_path):
    path = danbooru(tmp_path / "raw")
    with pytest.raises(UserError, match=r"found: 512px \(8\), original \(1\); set data\.source\.images"):
        Read({"kind": "danbooru", "path": str(path)}, tmp_path / "out")
    source = {"kind": "danbooru", "path": str(path), "images": "512px"}
    every = Read(source, tmp_path / "out")
    assert len(every.rows) == 8 and {row["source"] for row in every.quarantine} == {
        "512px/0001/77.jpg", "original/0000/1000.png",
    }  # fmt: skip
    assert {row["source"]: row["identity"] for row in every.rows if row["identity"]} == {
        "512px/0000/1000.jpg": "mei", "512px/0006/7006.jpg": "rin",
    }  # fmt: skip
    asked = {"tags": ["face"], "without": ["comic"], "ratings": ["safe"], "least_score": 0}
    few = Read(source | asked, tmp_path / "few", test=1, identity="none")
    assert few.names == {f"512px/{p % 1000:04}/{p}.jpg" for p in (1000, 2001, 7006)}
    reasons = {row["source"][6:]: row["reason"].removeprefix("not used: ") for row in few.quarantine}
    assert [reasons[f"{p % 1000:04}/{p}.jpg"] for p in (3002, 4003, 5004, 6005, 8007)] == [
        "rating e", "has no tag face", "score -2", "has the tag comic", "the metadata do not name it",
    ]  # fmt: skip
    large = Read(source | {"least_side": 900}, tmp_path / "large")
    assert large.names == {f"512px/{p % 1000:04}/{p}.jpg" for p in POSTS}
    for text, said in (("{}\n", ", line 1: no JSON object with an id"), ("x" * 2**23, ": cannot be read .*characters")):
        (path / "metadata/posts1.json").write_text(text)
        with pytest.raises(UserError, match=rf"posts1\.json{said}"):
            Read(source, tmp_path / "out")


NESTED = "[" * 700 + "]" * 700
WRONG = ["null", "true", "5", "-0.5", "1e999", "-1e999", "NaN", "9" * 4000, '""', '"x"', '"\\ud800\\n"', "[]", "[null]",
         "[[]]", "[5]", "{}", '{"name": []}', '[{}]', '[{"name": "\\ud800", "category": 4}]', NESTED,
         f'[{{"name": {NESTED}, "category": 4}}]', f'[{{"name": "rin", "category": {NESTED}}}]']  # fmt: skip
FIELDS = ("tags", "tag_string", "tag_string_character", "rating", "score", "image_width", "image_height")


def listed(path: Path, lines: list[str], **asked: Any) -> list[str]:
    """What is said of each picture: its character, or why it is left out."""
    fill(path, {"metadata/posts.json": "\n".join(lines).encode()})
    config = registry.get("danbooru").Config.model_validate({"kind": "danbooru", "path": str(path)} | asked)
    with registry.of(config).opened(config, path, LIMIT) as source:
        return [*source.listing.unused.values(), *(picture.identity for picture in source.listing.pictures)]


@pytest.mark.parametrize("field", FIELDS)
def test_fields_of_danbooru_may_hold_anything(tmp_path, field):
    """Of each that is read: no value of another kind ends in a traceback, or in a line that cannot be written."""
    whole = {"tag_string": "rin face", "tag_string_character": "rin", "rating": "s", "score": 5, "image_width": 9}
    if field == "tags":  # which counts where there is no tag_string
        del whole["tag_string"]
    lines = [
        json.dumps(whole | {"id": number, field: "HERE"}).replace('"HERE"', value) for number, value in enumerate(WRONG)
    ]
    path = fill(tmp_path, {f"512px/{number:04}/{number}.jpg": b"" for number in range(len(WRONG))})
    asks = ({}, {"tags": ["face"]}, {"without": ["face"]}, {"ratings": ["safe"]}, {"least_score": 6}, {"least_side": 3})
    for asked in asks:
        said = listed(path, lines, **asked)
        assert len(said) == len(WRONG) and all(text.encode() is not None and "\n" not in text for text in said)


@pytest.mark.parametrize("value", WRONG)
def test_a_number_of_danbooru_that_is_none(tmp_path, value):
    path = fill(tmp_path, {"512px/0009/9.jpg": b""})
    try:
        assert listed(path, [f'{{"id": {value}}}']) == [""]
    except UserError as error:
        assert re.search(r"posts\.json, line 1: no JSON object with an id; mend it", str(error))
    else:
        assert value in ("true", "5", "-0.5", WRONG[7])


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def parquet(columns: dict[str, list[Any]]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def cells(pictures: list[bytes], form: str = "{}.png") -> list[dict[str, Any]]:
    return [{"bytes": data, "path": form.format(name)} for name, data in zip(NAMES, pictures, strict=True)]


METADATA = "file_name,name\n" + "".join(f"{name}.png,x\n" for name in NAMES)
PAIRED = "".join(
    json.dumps({"gt_file_name": f"a/{n}.png", "line_file_name": f"b/{n}.png", "who": "abcdef"[i]}) + "\n"
    for i, n in enumerate(NAMES)
)
HUB = {  # form: (files, block, whether there are sketches)
    "parquet": ({"default/train/0000.parquet": parquet({"image": cells(FACES), "label": NAMES})}, {}, False),
    "parquet, pairs": (
        {"data/test-00000-of-00001.parquet": parquet({"target": cells(FACES), "sketch": cells(SKETCHES)})}, {}, True,
    ),
    "parquet, columns named": (
        {"data/train-00000-of-00001.parquet": parquet({"b": cells(FACES), "a": cells(SKETCHES), "who": [*"aabcde"]})},
        {"face": "b", "sketch": "a", "character": "who"}, True,
    ),
    "ImageFolder": (of("train/{}.png") | {"train/metadata.csv": METADATA.encode()}, {}, False),
    "ImageFolder, pairs": (
        of("train/a/{}.png") | of("train/b/{}.png", SKETCHES) | {"train/metadata.jsonl": PAIRED.encode()},
        {"character": "who"}, True,
    ),
    "a zip for a split": ({"train.zip": zipped(of("{}.png") | {"metadata.csv": METADATA.encode()})}, {}, False),
    "pictures alone": (of("train/reference/{}.png") | of("train/sketch/{}.png", SKETCHES), {}, True),
}  # fmt: skip


@pytest.mark.parametrize("form", HUB)
def test_a_copy_of_a_data_set_of_the_hub(tmp_path, form):
    files, block, drawn = HUB[form]
    path = fill(tmp_path / "copy", files | {"README.md": b"card", ".gitattributes": b""})
    found = Read({"kind": "huggingface", "path": str(path)} | block, tmp_path / "out")
    assert len(found.rows) == N and not found.quarantine
    split = "test" if "test" in next(iter(files)) else "train"
    assert all(name.startswith(f"{split}/") for name in found.names)
    assert all(found.holds(name, n, drawn) for n, name in enumerate(sorted(found.names)))
    if "character" in block:
        assert len({row["identity"] for row in found.rows}) in (5, 6)


@pytest.mark.parametrize(
    ("files", "block", "said"),
    [
        (
            {"a.parquet": parquet({"x": cells(FACES), "y": cells(FACES)})},
            {},
            r"not clear.*columns: x, y, of pictures: x, y",
        ),
        ({"a.parquet": parquet({"x": NAMES})}, {}, r"of pictures: none"),
        ({"a.parquet": parquet({"x": cells(FACES)})}, {"face": "z"}, r"no column 'z'"),
        ({"a.parquet": b"no table"}, {}, r"a\.parquet: no readable parquet"),
        ({"metadata.csv": b"\xff\xff"}, {}, r"metadata\.csv: cannot be read"),
        ({"metadata.jsonl": b'{"x_file_names": []}\n'}, {}, r"lists of pictures"),
        ({"train.zip": b"x"}, {}, r"train\.zip: no readable \.zip"),
        ({}, {"folder": "other"}, r"no file there"),
    ],
)
def test_data_sets_of_the_hub_that_say_too_little(tmp_path, files, block, said):
    path = fill(tmp_path / "copy", files | {"README.md": b""})
    with pytest.raises(UserError, match=said):
        Read({"kind": "huggingface", "path": str(path)} | block, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_pictures_that_a_data_set_names_and_lacks_are_quarantined(tmp_path):
    table = parquet({"image": [*cells(FACES)[:5], {"bytes": None, "path": "0005.png"}]})
    path = fill(tmp_path / "copy", {"a.parquet": table})
    found = Read({"kind": "huggingface", "path": str(path)}, tmp_path / "out")
    assert len(found.rows) == 5 and [row["reason"] for row in found.quarantine] == ["empty file"]


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as the library asks."""

    files = HUB["parquet, pairs"][0] | {"README.md": b"card"}

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        tree, file = f"/api/datasets/who/faces/tree/{COMMIT}", f"/datasets/who/faces/resolve/{COMMIT}/"
        if path == tree:
            entries = [{"type": "file", "path": n, "size": len(d), "oid": "0"} for n, d in self.files.items()]
            self._send(json.dumps(entries).encode(), body, "application/json")
        elif path.removeprefix(file) in self.files:
            self._send(self.files[path.removeprefix(file)], body, "application/octet-stream")
        else:
            self.send_error(404)

    def _send(self, data: bytes, body: bool, kind: str) -> None:
        self.send_response(200)
        for key, value in {
            "Content-Type": kind,
            "Content-Length": len(data),
            "ETag": '"0"',
            "X-Repo-Commit": COMMIT,
        }.items():
            self.send_header(key, str(value))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def test_a_data_set_of_the_hub_is_fetched_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    source = {"kind": "huggingface", "repository": "who/faces", "revision": COMMIT}
    with served(Hub) as url:
        found = Read(source | {"endpoint": url}, tmp_path / "out")
        with pytest.raises(UserError, match=rf"repository: who/none at {COMMIT} cannot be had"):
            Read(source | {"endpoint": url, "repository": "who/none"}, tmp_path / "none")
    assert all(found.holds(name, n) for n, name in enumerate(sorted(found.names))) and len(found.rows) == N
    # What is there is enough afterwards.
    again = Read("folder", tmp_path / "again", tmp_path / "out/fetched.zip")
    assert again.rows == found.rows
    with zipfile.ZipFile(tmp_path / "out/fetched.zip") as archive:
        assert len(archive.namelist()) == 2 * N


def test_of_what_is_fetched_only_archives_stay_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files = {f"train/{n}.png": b"1" for n in range(9)} | {"b.zip": zipped({"x.png": b"2", "y.png": b"2"})}
    monkeypatch.setattr(Hub, "files", files)
    said: list[str] = []
    with served(Hub) as url:
        source = {"kind": "huggingface", "repository": "who/faces", "revision": COMMIT, "endpoint": url}
        config = registry.get("huggingface").Config.model_validate(source)
        pictures = there(registry.of(config).fetch)(config, 900, said.append)
        left = [len([*tmp_path.rglob("*.png*")]) for _ in pictures]
    assert left == [0] * 11 and len(said) == 10 and not list(tmp_path.iterdir())


def test_a_commit_is_asked_for():
    with pytest.raises(ValueError, match="revision: missing"):
        registry.get("huggingface").Config(kind="huggingface", repository="who/faces")
    for block in ({}, {"path": "x", "repository": "who/faces", "revision": COMMIT}):
        with pytest.raises(ValueError, match="say one of the two"):
            registry.get("huggingface").Config(kind="huggingface", **block)
