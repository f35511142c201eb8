"""Stage faces: from a folder or archive to arrays, manifest and quarantine."""

import csv
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.faces import stage
from ssimbad.faces.reading import normalise
from ssimbad.params.tree import Data
from ssimbad.params.view import View
from ssimbad.runtime.job import Job

SIDE = 32
DECLARED = tuple(f"data.{key}" for key in Data.model_fields if key != "size")


def image_bytes(number: int, kind: str = "PNG", shape: tuple[int, int] = (40, 36)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (*shape[::-1], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder


def run(raw: Path, out: Path, threads: int = 1, **data) -> dict[str, Path]:
    class Node:
        pass

    values = dict(train=None, val=1, test=2, seed=0, test_list=None, max_pixels=10**5) | data
    node = Node()
    # Unvalidated: the stage itself does with two test faces, the pipeline wants three.
    node.data = Data.model_construct(source="folder", path=str(raw), native_size=SIDE, size=16, **values)
    outputs = {split: out / f"{split}.npy" for split in ("train", "val", "test")}
    outputs |= {name: out / f"{name}.csv" for name in ("manifest", "quarantine")}
    stage.run(View(node, DECLARED), {"raw": raw}, outputs, Job("faces", out, threads))
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
