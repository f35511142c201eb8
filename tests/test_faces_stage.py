"""Stage faces: from a folder or archive to arrays, manifest and quarantine."""

import csv
import hashlib
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.faces import shards, stage
from ssimbad.faces.reading import normalise, normalise_grey
from ssimbad.faces.sources import registry
from ssimbad.params.blocks import Data
from ssimbad.params.view import View
from ssimbad.runtime.job import Job

from .pictures import beside, face, fill, png

SIDE = 32
DECLARED = tuple(f"data.{key}" for key in Data.model_fields if key != "size")


def image_bytes(number: int, kind: str = "PNG", shape: tuple[int, int] = (40, 36)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (*shape[::-1], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def run(raw: Path, out: Path, threads: int = 1, meanwhile=lambda: None, **data) -> dict[str, Path]:
    """The stage's outputs; `source` may be a block without its path. With `shards` these read first, and after them
    what is given happens `meanwhile`."""

    class Node:
        pass

    values = dict(train=None, val=1, test=2, seed=0, test_list=None, max_pixels=10**5) | data
    node = Node()
    # Unvalidated: the stage itself does with two test faces, the pipeline wants three.
    if "source" in values:
        kind = registry.get(values["source"]["kind"])
        values |= {"path": None, "source": kind.Config.model_validate(values["source"] | {"path": str(raw)})}
    values = {"source": "folder", "path": str(raw)} | values
    node.data = Data.model_construct(native_size=SIDE, size=16, **values)
    names = [f"{kind}{split}" for kind in ("", "given_") for split in ("train", "val", "test")]
    outputs = {name: out / f"{name}.npy" for name in names}
    outputs |= {name: out / f"{name}.csv" for name in ("manifest", "quarantine")}
    view, inputs = View(node, DECLARED), {"raw": raw}
    for number in range(node.data.shards if node.data.shards > 1 else 0):
        made = {name: out / f"shards/{name}-{number}" for name in ("seen", "faces", "given")}
        shards.run(view, {"raw": raw}, made, Job("face_shard", out, threads, shard=number))
        for name, path in made.items():
            inputs.setdefault(f"shard_{name}", []).append(path)
    meanwhile()
    stage.run(view, inputs, outputs, Job("faces", out, threads))
    return outputs


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


FILES = {
    f"{n:02}.{kind.lower()}": image_bytes(n, kind) for n, kind in enumerate(["PNG", "JPEG", "WEBP", "BMP", "GIF"] * 3)
}


def test_arrays_and_manifest_agree(tmp_path):
    raw = fill(tmp_path / "raw", FILES)
    outputs = run(raw, tmp_path / "out")
    rows = table(outputs["manifest"])
    assert list(rows[0]) == ["id", "split", "source", "sha256", "width", "height", "sketch"]
    assert len(rows) == 15 and table(outputs["quarantine"]) == []
    order = {"train": 0, "val": 1, "test": 2}
    assert rows == sorted(rows, key=lambda row: (order[row["split"]], row["id"]))
    for split, count in {"train": 12, "val": 1, "test": 2}.items():
        array = artifacts.read_array(outputs[split])
        members = [row for row in rows if row["split"] == split]
        assert array.shape == (count, SIDE, SIDE, 3) and array.dtype == np.uint8 and len(members) == count
        for stored, row in zip(array, members, strict=True):
            data = (raw / row["source"]).read_bytes()
            assert row["sha256"] == hashlib.sha256(data).hexdigest()
            assert (row["width"], row["height"], row["sketch"]) == ("40", "36", "")
            assert (stored == normalise(data, SIDE, 10**5)[0]).all()


def test_same_bytes_for_any_number_of_workers_and_for_folder_or_zip(tmp_path):
    raw = fill(tmp_path / "raw", FILES | {"broken.png": b"x", "again.png": FILES["00.png"]})
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        for name in sorted(FILES, reverse=True):
            archive.writestr(name, FILES[name])
        archive.writestr("again.png", FILES["00.png"])
        archive.writestr("broken.png", b"x")
    one = run(raw, tmp_path / "one", 1)
    for other in (run(raw, tmp_path / "two", 3), run(tmp_path / "raw.zip", tmp_path / "three", 2)):
        assert all(one[name].read_bytes() == other[name].read_bytes() for name in one)


def test_no_validation_split(tmp_path):
    outputs = run(fill(tmp_path / "raw", FILES), tmp_path / "out", val=0)
    assert artifacts.read_array(outputs["val"]).shape == (0, SIDE, SIDE, 3)


def test_quarantine(tmp_path):
    bad = {
        "cut.png": FILES["00.png"][:400],
        "text.png": b"hello",
        "empty.jpg": b"",
        "big.png": image_bytes(50, shape=(400, 300)),
        "same file.png": FILES["00.png"],
        "same pixels.bmp": image_bytes(0, "BMP"),
    }
    outputs = run(fill(tmp_path / "raw", FILES | bad), tmp_path / "out")
    reasons = {row["source"]: row["reason"] for row in table(outputs["quarantine"])}
    assert list(reasons) == sorted(bad)
    assert "truncated" in reasons["cut.png"] and "not an image" in reasons["text.png"]
    assert "empty" in reasons["empty.jpg"] and "too many pixels" in reasons["big.png"]
    assert reasons["same file.png"] == reasons["same pixels.bmp"] == "duplicate of 00.png"
    assert {row["source"] for row in table(outputs["manifest"])} == set(FILES)


def test_given_sketches(tmp_path):
    files = {f"reference/{n}.png": image_bytes(n) for n in range(6)} | {
        f"sketch/{n}.png": image_bytes(100 + n) for n in range(5)
    }
    files["sketch/0.png"] = b"x"
    files["sketch/1.png"] = image_bytes(101, shape=(80, 40))
    files["sketch/2.png"] = image_bytes(102, shape=(80, 72))
    outputs = run(fill(tmp_path / "raw", files), tmp_path / "out")
    for split in ("train", "val", "test"):
        given = [row["sketch"] for row in table(outputs["manifest"]) if row["split"] == split and row["sketch"]]
        stored = artifacts.read_array(outputs[f"given_{split}"])
        assert len(stored) == len(given) and stored.dtype == np.uint8
        for sketch, name in zip(stored, given, strict=True):
            assert (sketch == normalise_grey(files[name], SIDE, 10**5)[0]).all()
    assert {row["id"]: row["sketch"] for row in table(outputs["manifest"])} == {
        "2": "sketch/2.png",
        "3": "sketch/3.png",
        "4": "sketch/4.png",
        "5": "",
    }
    reasons = {row["source"]: row["reason"] for row in table(outputs["quarantine"])}
    assert set(reasons) == {"reference/0.png", "reference/1.png"}
    assert "sketch/0.png: not an image" in reasons["reference/0.png"] and "proportions" in reasons["reference/1.png"]


def test_given_test_list(tmp_path):
    raw = fill(tmp_path / "raw", FILES | {"00 first.png": FILES["05.png"]})
    names = tmp_path / "test.txt"
    names.write_text("05.png\n07\n11.jpeg\n")
    outputs = run(raw, tmp_path / "out", test_list=str(names))
    rows = table(outputs["manifest"])
    assert [row["source"] for row in rows if row["split"] == "test"] == ["05.png", "07.webp", "11.jpeg"]
    # The listed file stays, though its twin comes first by name.
    assert table(outputs["quarantine"]) == [{"source": "00 first.png", "reason": "duplicate of 05.png"}]


@pytest.mark.parametrize(
    ("line", "message"), [("nobody.png", "'nobody.png' is no image"), ("bad.png", "bad.png cannot be used")]
)
def test_test_list_that_cannot_be_kept(tmp_path, line, message):
    names = tmp_path / "test.txt"
    names.write_text(f"05.png\n{line}\n")
    with pytest.raises(UserError, match=rf"test\.txt.*{message}"):
        run(fill(tmp_path / "raw", FILES | {"bad.png": b"x"}), tmp_path / "out", test_list=str(names))
    with pytest.raises(UserError, match=r"gone\.txt.*data\.test_list"):
        run(tmp_path / "raw", tmp_path / "out", test_list=str(tmp_path / "gone.txt"))


def test_nothing_usable_says_where_and_why(tmp_path):
    raw = fill(tmp_path / "raw", {f"{n}.png": b"x" for n in range(5)})
    with pytest.raises(UserError, match=r"raw: none of 5 files.*0\.png: not an image.*2\.png") as error:
        run(raw, tmp_path / "out")
    assert "3.png" not in str(error.value) and not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"empty: holds no image"):
        run(fill(tmp_path / "empty", {"a.txt": b"x"}), tmp_path / "out")


def test_too_few_leaves_nothing_behind(tmp_path):
    with pytest.raises(UserError, match=r"only 15 usable images.*data\.train 40"):
        run(fill(tmp_path / "raw", FILES), tmp_path / "out", train=40)
    assert not (tmp_path / "out").exists()


def test_an_image_that_changes_between_the_readings(tmp_path, monkeypatch):
    raw = fill(tmp_path / "raw", FILES)
    split_ids = stage.split_ids

    def meanwhile(*args):
        for name in FILES:
            (raw / name).write_bytes(image_bytes(99))
        return split_ids(*args)

    monkeypatch.setattr(stage, "split_ids", meanwhile)
    with pytest.raises(UserError, match="changed while it was being read"):
        run(raw, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == []


def grey(image: Image.Image) -> np.ndarray:
    return normalise_grey(png(image), SIDE, 10**5)[0]


@pytest.mark.parametrize("half", ["left", "right", "top", "bottom"])
@pytest.mark.parametrize("said", [False, True])
def test_faces_and_sketches_side_by_side(tmp_path, capsys, half, said):
    faces = {f"data/train/{n:02}.png": face(n) for n in range(12)}
    first = half in ("left", "top")
    files = {n: beside(*(f if first else f[::-1]), half in ("left", "right")) for n, f in faces.items()}
    source = {"source": {"kind": "pairs", "colour": half if said else "auto"}} if half == "top" or said else {}
    outputs = run(fill(tmp_path / "raw", files), tmp_path / "out", **source)
    rows = table(outputs["manifest"])
    assert len(rows) == 12 and {(row["width"], row["height"]) for row in rows} == {("64", "64")}
    train = [row["source"] for row in rows if row["split"] == "train"]
    for i, name in enumerate(train):
        assert (artifacts.read_array(outputs["train"])[i] == normalise(png(faces[name][0]), SIDE, 10**5)[0]).all()
        assert (artifacts.read_array(outputs["given_train"])[i] == grey(faces[name][1])).all()
    words = f"side by side (12 of 12 looked at, the first data/train/00.png): the face is {half}"
    assert (words in capsys.readouterr().out) is not said


def test_side_by_side_in_part(tmp_path):
    """What is no pair among pairs, and a pair among others, is quarantined; a mixture is asked about."""
    faces = [face(n) for n in range(60)]
    pairs = {f"{n:02}.png": beside(*f) for n, f in enumerate(faces)}
    single = {f"{n:02}.png": png(f[0]) for n, f in enumerate(faces)}
    for name, mine, other in (("a", pairs, single), ("b", single, pairs)):
        outputs = run(fill(tmp_path / name, mine | {"07.png": other["07.png"]}), tmp_path / "out")
        reasons = table(outputs["quarantine"])
        assert [row["source"] for row in reasons] == ["07.png"] and "side by side" in reasons[0]["reason"]
        assert len(table(outputs["manifest"])) == 59
    half = {n: (pairs if int(n[:2]) % 2 else single)[n] for n in pairs}
    with pytest.raises(UserError, match=r"30 of 60 pictures.*kind: pairs.*layout: plain"):
        run(fill(tmp_path / "c", half), tmp_path / "out")


def test_halves_that_are_not_clear(tmp_path):
    painted = {f"{n}.png": beside(f[0], f[0].convert("L").convert("RGB")) for n, f in enumerate(map(face, range(8)))}
    raw = fill(tmp_path / "raw", painted)
    for source in ({}, {"source": {"kind": "pairs"}}):
        with pytest.raises(UserError, match=r"8 of 8 pictures.*not clear which half.*colour: left"):
            run(raw, tmp_path / "out", **source)
    assert len(table(run(raw, tmp_path / "out", source={"kind": "pairs", "colour": "left"})["manifest"])) == 8
    assert len(table(run(raw, tmp_path / "out", source={"kind": "folder", "layout": "plain"})["manifest"])) == 8
    wide = {f"{n}.png": beside(face(n)[0], face(n + 20)[0]) for n in range(8)}
    rows = table(run(fill(tmp_path / "wide", wide), tmp_path / "out")["manifest"])
    assert {(row["width"], row["height"], row["sketch"]) for row in rows} == {("128", "64", "")}


@pytest.mark.parametrize(("drawings", "kept"), [("quarantine", 12), ("keep", 24)])
def test_drawings_among_faces(tmp_path, capsys, drawings, kept):
    files = {f"{side}/{n}.png": png(face(n)[i]) for n in range(12) for i, side in enumerate(("trainA", "trainB"))}
    raw = fill(tmp_path / "raw", files)
    with pytest.raises(UserError, match=r"12 of 24 faces look like line drawings.*trainB/0\.png.*data\.drawings"):
        run(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    outputs = run(raw, tmp_path / "out", drawings=drawings)
    assert len(table(outputs["manifest"])) == kept
    few = {f"{n}.png": png(face(n)[0]) for n in range(30)} | {"line drawing.png": png(face(1)[1])}
    assert len(table(run(fill(tmp_path / "few", few), tmp_path / "out")["manifest"])) == 31
    assert (
        "1 of 31 faces look like line drawings (hardly any colour, much white), such as line dr"
        in capsys.readouterr().out
    )


def test_too_small_too_long_and_blank(tmp_path):
    bad = {
        "a/1x1.png": image_bytes(1, shape=(1, 1)),
        "a/long.png": image_bytes(2, shape=(300, 60)),
        "a/thin.png": image_bytes(3, shape=(2000, 3)),
        "a/flat.jpg": beside(Image.new("RGB", (40, 40), "red"), Image.new("RGB", (40, 40), "red")),
        "a/nothing.png": png(Image.new("RGBA", (40, 40), (9, 9, 9, 0))),
    }
    fine = {"b/small.png": image_bytes(4, shape=(8, 8)), "b/4 to 1.png": image_bytes(5, shape=(160, 40))}
    outputs = run(fill(tmp_path / "raw", FILES | bad | fine), tmp_path / "out")
    reasons = {row["source"]: row["reason"] for row in table(outputs["quarantine"])}
    assert set(reasons) == set(bad)
    assert reasons["a/1x1.png"] == "too small (1 × 1; data.native_size 32 asks for 8 or more)"
    assert "too small" in reasons["a/thin.png"] and "too long (300 × 60" in reasons["a/long.png"]
    assert reasons["a/flat.jpg"] == reasons["a/nothing.png"] == "one flat colour"
    pairs = {f"{side}/{n}.png": png(face(n)[i]) for n in range(5) for i, side in enumerate(("gt", "line"))}
    pairs["line/3.png"] = png(Image.new("L", (64, 64), 255))
    outputs = run(fill(tmp_path / "pairs", pairs), tmp_path / "out")
    assert table(outputs["quarantine"]) == [{"source": "gt/3.png", "reason": "its sketch line/3.png: blank"}]


def test_no_name_is_lost_from_both_lists(tmp_path):
    names = ["a\rb.png", 'quote",.png', "new\nline.png", "\u00e9.png", "e\u0301.png", "n" * 240 + ".png", "\\xff.png"]
    files = {name: png(face(n)[0]) for n, name in enumerate(names)}
    raw = fill(tmp_path / "raw", files | {"bad\r.png": b"x"})
    (tmp_path / "raw" / os.fsdecode(b"\xff.png")).write_bytes(png(face(30)[0]))
    outputs = run(raw, tmp_path / "out")
    rows = table(outputs["manifest"])
    assert {row["source"] for row in rows} == {*names, "\\xff.png (2)"} and len({row["id"] for row in rows}) == 8
    assert [row["source"] for row in table(outputs["quarantine"])] == ["bad\r.png"]


def test_splits_of_the_source(tmp_path):
    names = ("train", "val", "test")
    files = {f"{split}/{n}.png": png(face(10 * i + n)[0]) for i, split in enumerate(names) for n in range(6)}
    files |= {"train/9.png": files["test/0.png"]}
    raw = fill(tmp_path / "raw", files)
    rows = table(run(raw, tmp_path / "out", splits="path", val=2, test=6)["manifest"])
    assert {(row["split"], row["source"].partition("/")[0]) for row in rows} == {(s, s) for s in names}
    assert [sum(row["split"] == s for row in rows) for s in names] == [6, 2, 6]
    assert table(tmp_path / "out/quarantine.csv") == [{"source": "train/9.png", "reason": "duplicate of test/0.png"}]
    with pytest.raises(UserError, match=r"data\.test: 7 asked, but 6 usable faces are in a folder test"):
        run(raw, tmp_path / "out", splits="path", test=7)
    two = fill(tmp_path / "two", {name: data for name, data in files.items() if not name.startswith("test")})
    rows = table(run(two, tmp_path / "out", splits="path", val=2, test=4, train=3)["manifest"])
    assert {(row["split"], row["source"].partition("/")[0]) for row in rows} == {
        ("train", "train"), ("val", "val"), ("test", "val"),
    }  # fmt: skip
    with pytest.raises(UserError, match=r"data\.splits: path, but no folder"):
        run(fill(tmp_path / "flat", FILES), tmp_path / "out", splits="path")


def test_characters(tmp_path):
    files = {f"{who}/{n}.png": png(face(10 * i + n)[0]) for i, who in enumerate("abcde") for n in range(4)}
    raw = fill(tmp_path / "raw", files)
    rows = table(run(raw, tmp_path / "out", test=8)["manifest"])
    assert all(row["identity"] == row["source"][0] for row in rows)
    assert "identity" not in table(run(raw, tmp_path / "out", test=8, identity="none")["manifest"])[0]
    names = tmp_path / "test.txt"
    names.write_text("a/0.png\na/1.png\nb/0.png\n")
    with pytest.raises(UserError, match=r"data\.identity: 2 of 3 test faces are of 'a'.*set it to none"):
        run(raw, tmp_path / "none", test_list=str(names))
    assert not (tmp_path / "none").exists()
