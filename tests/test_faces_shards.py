"""Shards of the data: the bytes of a single job whatever their number, also after kills."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.faces import examining, shards
from ssimbad.pairing import stage_sketches
from ssimbad.params import tree as parameters
from ssimbad.params.view import View
from ssimbad.pipeline import records, runner
from ssimbad.pipeline.table import instances
from ssimbad.runtime.job import Job

from .conftest import ROOT, bring, draw_faces, make_house, miniature
from .pictures import beside, face, fill, png
from .test_faces_framing import illustration
from .test_faces_stage import image_bytes, run, table


def _pairs() -> dict[str, bytes]:
    """Given sketches, masks, repeated pictures far from each other, and every fault that a pair can have."""
    files = {f"{side}/{n:02}.png": png(face(n)[i]) for n in range(14) for i, side in enumerate(("gt", "line"))}
    files |= {f"mask/{n:02}.png": png(Image.new("L", (64, 64), 255)) for n in range(7)}
    files |= {f"gt/x{n}.png": png(face(n + 20)[0]) for n in range(4)}
    files |= {"gt/99.png": files["gt/00.png"], "gt/a.bmp": _bmp(files["gt/05.png"]), "gt/b.png": b"x"}
    files |= {"gt/flat.png": png(Image.new("RGB", (64, 64), "red")), "gt/small.png": image_bytes(1, shape=(5, 5))}
    return files | {
        "line/02.png": png(Image.new("L", (64, 64), 255)),
        "line/03.png": png(Image.new("L", (64, 20), 255)),
        "line/04.png": b"x",
        "line/nobody.png": png(face(1)[1]),
    }


def _bmp(data: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, format="BMP")
    return buffer.getvalue()


def _halves() -> dict[str, bytes]:
    files = {f"{who}/{n}.png": beside(*face(9 * i + n)) for i, who in enumerate("abcd") for n in range(4)}
    return files | {"d/alone.png": png(face(50)[0]), "d/twice.png": files["a/0.png"]}


def _illustrations() -> dict[str, bytes]:
    both = [illustration((n, 100, 10, 60), (n + 9, 130, 190, 60)) for n in range(3)]
    files = {f"gt/{n}.png": png(picture) for n, picture in enumerate([*both, both[0], illustration((7, 110, 9, 40))])}
    files |= {"line/1.png": png(both[1].convert("L").resize((210, 150))), "gt/none.png": png(face(3, 128)[0])}
    return files


SOURCES = {
    "pairs": (_pairs, {"test": 3}, 15, {"duplicate", "blank", "proportions", "not an image", "flat", "too small"}),
    "halves": (_halves, {"test": 4}, 16, {"duplicate", "not two squares"}),
    "illustrations": (
        _illustrations,
        {"crop": "face", "crop_least": 60, "crop_most": 2, "max_pixels": 10**6},
        7,
        {"duplicate", "no face"},
    ),
}


def _told(path: Path) -> str:
    return " ".join(row["reason"] for row in table(path))


@pytest.mark.parametrize("name", SOURCES)
def test_bytes_do_not_depend_on_the_number_of_shards(tmp_path, name):
    files, asked, kept, faults = SOURCES[name]
    raw = fill(tmp_path / "raw", files())
    whole = run(raw, tmp_path / "whole", **asked)
    rows = table(whole["manifest"])
    assert len(rows) == kept and all(fault in _told(whole["quarantine"]) for fault in faults)
    for number in (2, 5, 30) if name != "illustrations" else (3,):
        out = tmp_path / str(number)
        apart = run(raw, out, threads=number % 3 + 1, shards=number, **asked)
        assert {key: path.read_bytes() for key, path in apart.items()} == {
            key: path.read_bytes() for key, path in whole.items()
        }, number
        assert sum(len(artifacts.read_array(out / f"shards/faces-{i}")) for i in range(number)) >= kept
    _sketched_alike(whole, tmp_path)


def _sketched_alike(faces: dict[str, Path], folder: Path) -> None:
    """The sketches of these faces, drawn by one job and by shards."""
    node = SimpleNamespace(sketches=parameters.load(ROOT / "presets/demo.yaml").sketches, data=SimpleNamespace())

    def drawn(name: str, inputs: dict) -> dict[str, bytes]:
        outputs = {split: folder / name / f"{split}.npy" for split in stage_sketches.SPLITS}
        stage_sketches.run(View(node, ("sketches",)), inputs, outputs, Job("sketches", folder))
        return {split: path.read_bytes() for split, path in outputs.items()}

    whole = drawn("one", faces)
    given = sum(row["sketch"] != "" for row in table(faces["manifest"]))
    for number in (2, 20):
        node.data.shards = number
        paths = [folder / f"drawn-{number}-{i}.npy" for i in range(number)]
        for i, path in enumerate(paths):
            view, job = View(node, ("sketches", "data.shards")), Job("sketch_shard", folder, shard=i)
            stage_sketches.run_shard(view, faces, {"sketches": path}, job)
        assert drawn(str(number), faces | {"shards": paths}) == whole
        drawn_ones = sum(len(artifacts.read_array(path)) for path in paths)
        assert drawn_ones == len(table(faces["manifest"])) - given, "given ones are not drawn besides"
    if drawn_ones:
        with pytest.raises(UserError, match=r"sketches for \d+ faces; run stage sketch_shard again"):
            drawn("more", faces | {"shards": paths * 2})


@pytest.mark.parametrize(
    ("touched", "data"),
    [("gt/07.png", "gt/08.png"), ("line/07.png", "line/08.png"), ("gt/07a.png", "gt/x1.png"), ("gt/x3.png", None)],
)
def test_a_source_that_changes_between_shards_and_gathering(tmp_path, touched, data):
    files = _pairs()
    raw = fill(tmp_path / "raw", files)

    def change() -> None:
        (raw / touched).write_bytes(files[data]) if data else (raw / touched).unlink()

    said = rf"raw: {touched} changed while it was being read; run again, the stage face_shard first"
    with pytest.raises(UserError, match=said):
        run(raw, tmp_path / "out", meanwhile=change, shards=3, test=3)


def test_nothing_is_written_of_shards_that_are_not_whole(tmp_path):
    raw = fill(tmp_path / "raw", {f"{n}.png": png(face(n)[0]) for n in range(8)})

    def shorten() -> None:
        path = tmp_path / "out/shards/faces-1"
        artifacts.write_array(path, np.asarray(artifacts.read_array(path))[1:])

    with pytest.raises(UserError, match=r"shards: 7 rows for the 8 faces that were seen; run stage face_shard again"):
        run(raw, tmp_path / "out", meanwhile=shorten, shards=2, test=3)
    assert not list((tmp_path / "out").glob("*.npy"))


def _house(folder: Path) -> parameters.Params:
    tree = miniature()
    tree["data"] |= {"source": "folder", "path": "data/raw/faces", "shards": 3}
    draw_faces(make_house(folder, tree) / "data/raw/faces", 26)
    return parameters.load(folder / "params.yaml")


def _killed(p: parameters.Params, name: str, patch) -> None:
    """Bring an instance up to date in a process that shoots itself in its middle."""
    instance = next(i for i in instances(p) if i.name == name)
    child = os.fork()
    if not child:
        patch()
        runner.run(p, instance)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not any(Path(path).exists() for path in instance.outputs.values())
    assert any(Path(path).parent.glob(f".{Path(path).name}.*.tmp") for path in instance.outputs.values())


def _shoot_at(where, name: str, call: int) -> None:
    function, calls = getattr(where, name), []

    def counted(*given):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given)

    setattr(where, name, counted)


def test_after_kills_of_a_shard_and_of_the_gathering_only_what_was_killed_is_made_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    p = _house(tmp_path)
    whole = run(tmp_path / "data/raw/faces", tmp_path / "whole", train=16, val=4, test=4)
    runner.run(p, runner.find(p, "face_shard", {"shard": "0"}))
    _killed(p, "face_shard-1", lambda: _shoot_at(examining, "examine", 5))
    bring(p, only=["face_shard"])
    assert "face_shard-0: up to date" in capsys.readouterr().out
    _killed(p, "faces", lambda: _shoot_at(shards.Gathered, "face", 9))
    bring(p, only=["face_shard", "faces"])
    assert capsys.readouterr().out.count("up to date") == 3
    found = records.survey(p)
    assert [name for name in found if "face" in name and found[name] is None] == [
        "face_shard-0", "face_shard-1", "face_shard-2", "faces",
    ]  # fmt: skip
    for name, path in whole.items():
        assert path.read_bytes() == (tmp_path / "data/faces" / path.name).read_bytes(), name
