"""`ssimbad colorize`: any sketch, and nothing of the user's is harmed."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, PngImagePlugin

from ssimbad import artifacts
from ssimbad.colorize import answers, at_hand, folders, user
from ssimbad.errors import ParameterError, UserError
from ssimbad.web import server


def test_a_folder_after_one_reference(weights, pictures, tmp_path):
    folder, reference = pictures
    user.run(folder, reference, weights, tmp_path / "out")
    assert {p.stem for p in (tmp_path / "out").iterdir()} == {p.stem for p in folder.iterdir()}
    assert Image.open(tmp_path / "out/grey.png").size == (16, 16)


def test_an_answer_at_the_sketchs_own_size_carries_its_lines(weights, pictures, tmp_path):
    folder, reference = pictures
    user.run(folder / "grey.png", reference, weights, tmp_path / "c.png", fit="sketch")
    answer = np.asarray(Image.open(tmp_path / "c.png"))
    assert answer.shape == (40, 25, 3)
    assert answer[11, 5].max() == 0


def test_steps_and_sampler_can_be_chosen(weights, pictures, tmp_path):
    folder, reference = pictures
    for name, options in (("a", {}), ("b", {"steps": 4, "sampler": "heun"})):
        user.run(folder / "grey.png", reference, weights, tmp_path / f"{name}.png", **options)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_mistakes_are_named(weights, pictures, tmp_path):
    folder, reference = pictures
    sketch, out = folder / "grey.png", tmp_path / "c.png"
    (tmp_path / "text.png").write_text("no picture")
    cases = [
        ((tmp_path / "none.png", reference, weights, out), {}, "none.png"),
        ((tmp_path / "text.png", reference, weights, out), {}, "text.png"),
        ((sketch, folder, weights, out), {}, "--reference"),
        ((sketch, reference, tmp_path / "w.safetensors", out), {}, "no such weights"),
        ((sketch, reference, weights, tmp_path / "c.jpg"), {}, ".png"),
        ((sketch, reference, weights, out), {"fit": "page"}, "--fit"),
        ((sketch, reference, weights, out), {"sampler": "eular"}, "--sampler"),
        ((sketch, reference, weights, out), {"steps": 0}, "--steps 0: expected 1 to 1000"),
        ((sketch, reference, weights, out), {"steps": 1001}, "--steps"),
        ((sketch, reference, weights, out), {"steps": 10**11}, "--steps"),
        ((tmp_path / "out", reference, weights, out), {}, "out"),
    ]
    for arguments, options, named in cases:
        with pytest.raises(UserError) as caught:
            user.run(*arguments, **options)
        assert named in str(caught.value)
    assert not out.exists()


def test_folders_are_paired_by_name(weights, pictures, tmp_path):
    folder, reference = pictures
    references = tmp_path / "references"
    references.mkdir()
    Image.open(reference).save(references / "grey.jpg")
    with pytest.raises(UserError, match="4 lacking"):
        user.run(folder, references, weights, tmp_path / "out")
    with pytest.raises(ParameterError, match="folder"):
        user.run(folder, reference, weights, tmp_path / "out.png")


def test_a_sketch_never_has_two_references(weights, pictures, tmp_path):
    folder, reference = pictures
    references = tmp_path / "references"
    references.mkdir()
    for name in ("grey.jpg", "other.jpg", "other.png"):
        Image.open(reference).save(references / name)
    for sketch in [p for p in folder.iterdir() if p.stem != "grey"]:
        sketch.unlink()
    user.run(folder, references, weights, tmp_path / "out")  # two for a sketch that is not there are nobody's business
    Image.open(reference).save(references / "grey.bmp")
    both = f"{references / 'grey.bmp'} and {references / 'grey.jpg'} are both named like {folder / 'grey.png'};"
    refused(tmp_path, both, folder, references, weights, tmp_path / "more")
    Image.open(reference).save(references / "grey.png")  # of the very same name
    user.run(folder, references, weights, tmp_path / "more")


def refused(where, named, *arguments, **options):
    """The command refuses, names what it would replace, and leaves every file as it was."""
    before = {p: p.read_bytes() for p in where.rglob("*") if p.is_file()}
    with pytest.raises(ParameterError, match=re.escape(named)):
        user.run(*arguments, **options)
    assert {p: p.read_bytes() for p in where.rglob("*") if p.is_file()} == before


def as_link(path, given):
    path.symlink_to(given)


def as_hard_link(path, given):
    path.hardlink_to(given)


@pytest.mark.parametrize("link", [as_link, as_hard_link])
@pytest.mark.parametrize("name", ["sketch", "reference", "weights", "json"])
def test_an_answer_never_lands_on_an_input_that_has_another_name(weights, pictures, tmp_path, link, name):
    folder, reference = pictures
    given = {"sketch": folder / "grey.png", "reference": reference, "weights": weights}
    given["json"] = weights.with_suffix(".json")
    link(tmp_path / "out.png", given[name])
    refused(tmp_path, "out.png is", given["sketch"], reference, weights, tmp_path / "out.png")


def test_an_answer_never_lands_on_its_sketch_or_reference(weights, pictures, tmp_path, monkeypatch):
    folder, reference = pictures
    sketch = folder / "grey.png"
    monkeypatch.chdir(folder)
    picture = folder / "reference.png"
    Image.open(reference).save(picture)
    for out in (sketch, Path("grey.png"), Path("../sketches/./grey.png"), folder, Path()):
        refused(tmp_path, "is an input", sketch, reference, weights, out)
        refused(tmp_path, "is an input", Path("grey.png"), reference, weights, out)
    refused(tmp_path, "is an input", sketch, picture, weights, Path("reference.png"))
    refused(tmp_path, "is an input", folder, reference, weights, folder)
    (tmp_path / "linked").symlink_to(folder)
    refused(tmp_path, "is an input", folder, reference, weights, tmp_path / "linked")
    refused(tmp_path, "is an input", tmp_path / "linked", reference, weights, folder)


def test_an_answer_never_lands_on_another_ones_reference(weights, pictures, tmp_path):
    """A folder of references, into which the answers are to go."""
    folder, reference = pictures
    references = tmp_path / "references"
    references.mkdir()
    for sketch in folder.iterdir():
        Image.open(reference).save(references / sketch.name)
    refused(tmp_path, "is an input", folder, references, weights, references)


def copies(picture: Path, folder: Path, names: tuple[str, ...]) -> Path:
    """A folder with the same picture under several names."""
    folder.mkdir()
    for name in names:
        Image.open(picture).save(folder / name)
    return folder


NAMES = [
    (("a.png", "a.jpg"), {"a.png.png", "a.jpg.png"}),
    (("a.b.png", "a.b.webp"), {"a.b.png.png", "a.b.webp.png"}),
    (("a.png", "a.jpg", "a.png.webp"), {"a.jpg.png", "a.png.png", "a.png-2.png"}),
    (("a.png", "b.png", "a.GIF"), {"a.png.png", "a.GIF.png", "b.png"}),
    (("\u00c4.png", "a\u0308.jpg"), {"\u00c4.png.png", "a\u0308.jpg.png"}),
]


@pytest.mark.parametrize(("names", "answered"), NAMES)
def test_each_sketch_has_an_answer_of_its_own(weights, pictures, tmp_path, names, answered):
    folder, reference = pictures
    sketches = copies(folder / "grey.png", tmp_path / "pairs", names)
    user.run(sketches, reference, weights, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == answered


@pytest.mark.parametrize(
    "names", [("a.png", "A.png"), ("\u00e4.png", "a\u0308.png"), ("ss.png", "\u00df.png", "SS.PNG")]
)
def test_answers_have_names_that_no_disk_takes_for_one(names):
    sketches = [Path(name) for name in names]
    found = folders.answers(sketches)
    assert set(found) == set(sketches)
    assert len({folders.one_name(name) for name in found.values()}) == len(names)


def test_an_earlier_answer_may_be_replaced_and_no_other_file(weights, pictures, tmp_path):
    folder, reference = pictures
    arguments, out = (folder / "grey.png", reference, weights), tmp_path / "c.png"
    user.run(*arguments, out)
    first = out.read_bytes()
    refused(tmp_path, "c.png is there; name another place, or let --overwrite", *arguments, out)
    user.run(*arguments, out, fit="sketch", overwrite=True)
    assert out.read_bytes() != first
    retouched = np.array(Image.open(out))
    retouched[0, 0] ^= 1
    kept = PngImagePlugin.PngInfo()
    for key, value in Image.open(out).info.items():
        kept.add_text(key, value)
    Image.fromarray(retouched).save(out, pnginfo=kept)
    refused(tmp_path, "c.png is there, and not as", *arguments, out, overwrite=True)
    for foreign in (b"", b"no picture", first[:-40], (folder / "pencil.png").read_bytes()):
        out.write_bytes(foreign)
        refused(tmp_path, "c.png is there, and not as", *arguments, out, overwrite=True)
    refused(tmp_path, "grey.png is there", folder, reference, weights, as_folder(tmp_path, "grey.png"))


def marked(image: Image.Image, **kept) -> bytes:
    about, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    for key, value in kept.items():
        about.add_text(key, value)
    image.save(buffer, format="PNG", pnginfo=about)
    return buffer.getvalue()


def wide(data: bytes) -> bytes:
    """A PNG that says it has 20 000 × 20 000 pixels."""
    head = b"IHDR" + struct.pack(">II", 20_000, 20_000) + data[24:29]
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


def bomb(path: Path, comment: bytes, method: int, copies: int = 1) -> None:
    """A zip; with `copies` its list names the one member as often."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.comment = comment
        archive.writestr("a.png", bytes(10**6))
        archive.filelist = archive.filelist * copies


def test_what_cannot_be_an_answer_is_not_unpacked(tmp_path, monkeypatch):
    """Without our mark, or larger than any answer: somebody's file may be a bomb."""
    path, small, mark = tmp_path / "z.png", Image.new("L", (8, 8)), f"ssimbad colorize {0:016x}"
    answers.write(path, np.asarray(small))
    assert answers.ours(path)
    answers.write(path, [("a", b"1"), ("b", b"")])
    assert answers.ours(path)

    def unpacked(*_):
        raise AssertionError("unpacked")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", unpacked)
    monkeypatch.setattr(zipfile.ZipFile, "read", unpacked)
    for data in (marked(small), marked(small, Software="GIMP"), wide(marked(small, Software=mark))):
        path.write_bytes(data)
        assert not answers.ours(path)
    bomb(path, b"", zipfile.ZIP_STORED)
    assert not answers.ours(path)
    bomb(path, mark.encode(), zipfile.ZIP_DEFLATED)
    assert not answers.ours(path)
    bomb(path, mark.encode(), zipfile.ZIP_STORED, copies=50)
    assert not answers.ours(path)
    path.unlink()
    os.mkfifo(path)
    assert not answers.ours(path)


def as_folder(where, name):
    """A folder for answers that holds somebody's own picture under the name of one of them."""
    folder = where / "album"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / name)
    return folder


def line_art(path: Path, row: int = 10, **options) -> Path:
    """One line on white paper."""
    lines = np.full((40, 40), 255, np.uint8)
    lines[row : row + 3, 5:35] = 0
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(lines).save(path, **options)
    return path


def test_a_folder_is_read_by_content_and_its_bad_files_are_named_at_the_end(weights, tmp_path, capsys):
    folder, out = tmp_path / "mixed", tmp_path / "out"
    for name in ("a.png", "b.jfif", "c", "broken.png"):
        line_art(folder / name, format="JPEG" if name == "b.jfif" else "PNG")
    (folder / "broken.png").write_bytes((folder / "broken.png").read_bytes()[:80])
    Image.new("L", (30, 30), 255).save(folder / "blank.png")
    (folder / "._a.png").write_bytes(b"\0\5\x16\7")
    (folder / "notes.txt").write_text("no picture")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "more\nssimbad: forged").mkdir()
    reference = line_art(tmp_path / "reference.png")
    with pytest.raises(UserError, match="3 of 6 sketches were not coloured") as caught:
        user.run(folder, reference, weights, out)
    assert caught.value.code == 3
    assert {path.name for path in out.iterdir()} == {"a.png", "b.png", "c.png"}
    told = capsys.readouterr()
    assert told.out.split() == [str(out / name) for name in ("a.png", "b.png", "c.png")]
    first, *bad = told.err.splitlines()
    assert first == r"ssimbad: passed over, no pictures: more\nssimbad: forged, notes.txt"
    assert [re.search(r"mixed/(\S+): ", line)[1] for line in bad] == ["blank.png", "broken.png", "empty.jpg"]
    assert "no lines found" in bad[0]


def test_a_folder_of_sketches_and_answers_is_coloured_again_without_them(weights, tmp_path, capsys):
    """Earlier answers beside their sketches are no sketches, but a picture of somebody's own is one."""
    folder, reference = tmp_path / "all", line_art(tmp_path / "reference.png")
    for name in ("b.jfif", "c.jpg"):
        line_art(folder / name, format="JPEG")
    user.run(folder, reference, weights, folder, layers=folder / "layers")
    with pytest.raises(ParameterError, match=r"b\.png is there; name another place, or let --overwrite"):
        user.run(folder, reference, weights, folder)
    first = (folder / "b.png").read_bytes()
    line_art(folder / "b.jfif", row=25, format="JPEG")
    capsys.readouterr()
    user.run(folder, reference, weights, folder, overwrite=True)
    assert "passed over, earlier answers: b.png, c.png" in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == {"b.jfif", "b.png", "c.jpg", "c.png", "layers"}
    assert (folder / "b.png").read_bytes() != first
    own = line_art(folder / "c.png").read_bytes()
    user.run(folder, reference, weights, folder, overwrite=True)
    assert (folder / "c.png").read_bytes() == own and (folder / "c.png.png").exists()


def test_what_all_sketches_share_is_told_once_and_nothing_is_written(weights, pictures, tmp_path):
    folder, _ = pictures
    bad, out = tmp_path / "bad.png", tmp_path / "out"
    bad.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"bad\.png: not an image") as caught:
        user.run(folder, bad, weights, out)
    assert caught.value.code == 1
    with pytest.raises(ParameterError, match="--steps 0: expected"):
        user.run(folder, folder / "grey.png", weights, out, steps=0)
    with pytest.raises(UserError, match=r"more\.png: cannot be read"):
        user.run(folder, [folder / "grey.png", tmp_path / "more.png"], weights, out)
    assert not out.exists()


def test_lines_and_layers_are_written_beside(weights, pictures, tmp_path):
    folder, reference = pictures
    places = {"show_lines": tmp_path / "lines", "layers": tmp_path / "layers"}
    user.run(folder, reference, weights, tmp_path / "out", **places)
    for place in places.values():
        assert {path.name for path in place.iterdir()} == {path.name for path in folder.iterdir()}
    assert np.asarray(Image.open(tmp_path / "lines/pencil.png")).shape == (16, 16)
    assert np.asarray(Image.open(tmp_path / "layers/pencil.png")).shape == (40, 25, 4)
    rasters = tmp_path / "rasters"
    user.run(folder, reference, weights, tmp_path / "again", ora=rasters)
    assert {path.name for path in rasters.iterdir()} == {f"{path.stem}.ora" for path in folder.iterdir()}
    one = {"ora": rasters / "grey.ora"}
    refused(
        tmp_path, "grey.ora is there; name another", folder / "grey.png", reference, weights, tmp_path / "z.png", **one
    )
    user.run(folder / "grey.png", reference, weights, tmp_path / "z.png", ora=rasters, overwrite=True)
    with zipfile.ZipFile(one["ora"], "a") as archive:
        archive.writestr("data/mine.png", b"")
    more = one | {"overwrite": True}
    refused(
        tmp_path, "grey.ora is there, and not as", folder / "grey.png", reference, weights, tmp_path / "y.png", **more
    )
    wrong = {"layers": tmp_path / "x.ora"}
    refused(tmp_path, "there is --ora", folder / "grey.png", reference, weights, tmp_path / "y.png", **wrong)
    twice = {"show_lines": tmp_path / "x.png", "layers": tmp_path / "x.png"}
    refused(tmp_path, "would be written twice", folder / "grey.png", reference, weights, tmp_path / "y.png", **twice)
    sketch = {"layers": folder / "grey.png"}
    refused(tmp_path, "is an input", folder / "grey.png", reference, weights, tmp_path / "y.png", **sketch)


def test_an_answer_is_repeated_from_its_note(weights, pictures, tmp_path, monkeypatch):
    folder, reference = pictures
    a, b, c, note = (tmp_path / name for name in ("a.png", "b.png", "c.png", "a.json"))
    given = {"sketch": folder / "grey.png", "reference": [reference], "weights": weights, "out": a, "seed": 4}
    user.command(given | {"steps": 3, "options": {"guidance": "{weight: 1.0}"}, "fit": None}, note=note)
    monkeypatch.chdir(folder)
    user.command({"out": b}, repeated=Path("../a.json"))
    user.command({"out": c, "seed": 5}, repeated=note)
    assert a.read_bytes() == b.read_bytes() != c.read_bytes()
    (tmp_path / "text.json").write_text("no JSON")
    (tmp_path / "other.json").write_text('{"sketches": 1}')
    (tmp_path / "part.json").write_text('{"seed": 1}')
    new = {"out": tmp_path / "d.png"}
    for told, more, said in [
        ("text.json", {}, "text.json: no JSON"),
        ("other.json", {}, "other.json: sketches: Extra inputs"),
        ("gone.json", {}, "gone.json: cannot be read"),
        ("part.json", {}, "--sketch: missing; name a picture, or --from"),
        ("a.json", {"note": note}, "a.json: there already"),
        ("a.json", {"note": tmp_path / "a.txt"}, "a.txt: give it the ending .json"),
    ]:
        with pytest.raises(UserError, match=said):
            user.command(new, repeated=tmp_path / told, **more)
    with pytest.raises(UserError, match=r"--out: missing; name a picture$"):
        user.command({}, repeated=note)
    assert not new["out"].exists()


@pytest.mark.parametrize("name", ["", "a\0b", "\0", "\ud800", "a\udfff.png", 5, ["a"]])
@pytest.mark.parametrize("key", ["weights", "sketch", "references", "mask", "reference_mask", "mask_network"])
def test_a_note_with_a_name_that_no_file_has_is_one_line(tmp_path, key, name):
    note = tmp_path / "a.json"
    told = {"sketch": "s.png", "references": ["s.png"], "weights": "ssimbad:starter"}
    note.write_text(json.dumps(told | {key: [name] if key == "references" else name}))
    with pytest.raises(ParameterError, match=rf"^--from {note}: {key}[.0]*: ") as caught:
        user.command({"out": tmp_path / "o.png"}, repeated=note)
    assert "\n" not in str(caught.value)


def test_a_note_may_name_a_file_whose_name_is_no_text(weights, pictures, tmp_path):
    folder, reference = pictures
    sketch, note = folder / os.fsdecode(b"\xff.png"), tmp_path / "a.json"
    sketch.write_bytes((folder / "grey.png").read_bytes())
    given = {"sketch": sketch, "reference": [reference], "weights": weights}
    user.command(given | {"out": tmp_path / "a.png"}, note=note)
    user.command({"out": tmp_path / "b.png"}, repeated=note)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    "text", ["!!bool maybe", "2001-99-99", "[" * 3_000, "!!int x", "{a: 1, a: 2}", "&a [*a]", "a: b: c", "\0", "\ud800"]
)
def test_an_option_that_is_no_yaml_is_one_line(weights, pictures, tmp_path, text):
    folder, reference = pictures
    given = {"sketch": folder / "grey.png", "reference": [reference], "weights": weights, "out": tmp_path / "a.png"}
    with pytest.raises(ParameterError, match=r"^--option guidance: ") as caught:
        user.command(given | {"options": {"guidance": text}})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    (tmp_path / "a.json").write_text(json.dumps({"options": {"guidance": text}}))
    with pytest.raises(ParameterError, match=r"^--option guidance: "):
        user.command(given, repeated=tmp_path / "a.json")


def test_the_best_weights_here_are_those_of_the_best_measured_row(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert at_hand.best() == Path("ssimbad:starter"), "those that come with the package"
    values = {"a/pretrain": 17.5, "b/pretrain": 18.5, "c/finetune": None, "d/pretrain": "?", "e/finetune": 16.0}
    for row, value in values.items():
        for ending in (".safetensors", ".json"):
            path = tmp_path / "models" / row / f"seed-0{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(weights.with_suffix(ending).read_bytes())
        summary = tmp_path / "reports/metrics" / row / "seed-0/cross-true.json"
        artifacts.write_json(summary, {"metrics": {"psnr": {"value": value}}})
    (tmp_path / "models/f/pretrain").mkdir(parents=True)
    (tmp_path / "models/f/pretrain/seed-0.safetensors").touch()  # nothing says how it was made
    found = at_hand.found()
    order = ["b/pretrain", "a/pretrain", "e/finetune", "c/finetune", "d/pretrain"]
    assert [f"{path.parent.parent.name}/{path.parent.name}" for path in found] == [*order, "/"]
    assert list(found.values()) == [18.5, 17.5, 16.0, None, None, None]
    assert at_hand.best() == Path("models/b/pretrain/seed-0.safetensors")
    assert list(server.Studio(list(found), found).notes.values()) == [
        "18.50 dB cross-true, the best row here", "17.50 dB cross-true", "16.00 dB cross-true", "comes with ssimbad",
    ]  # fmt: skip


def test_references_go_by_equal_names_of_any_spelling(tmp_path):
    bytes_ = os.fsdecode(b"x\xff.png")
    sketches = [line_art(tmp_path / "s" / name) for name in ("a\u0308.png", "frame 2.png", bytes_)]
    wanted = [line_art(tmp_path / "r" / name) for name in ("\u00e4.png", "frame 2.png", bytes_)]
    line_art(tmp_path / "r" / "frame 2.webp")
    assert folders.beside("reference", tmp_path / "r", sketches) == wanted
    with pytest.raises(UserError, match=r"no reference named like b\.png \(1 lacking\)"):
        folders.beside("reference", tmp_path / "r", [tmp_path / "s/b.png"])


def test_several_references_are_averaged(weights, pictures, tmp_path):
    folder, reference = pictures
    other = tmp_path / "other.png"
    Image.new("RGB", (9, 9), (10, 250, 40)).save(other)
    for name, given in (("one", reference), ("two", other), ("both", [reference, other])):
        user.run(folder / "grey.png", given, weights, tmp_path / f"{name}.png")
    one, two, both = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(float) for name in ("one", "two", "both"))
    assert np.array_equal(both, np.rint((one + two) / 2)) and not np.array_equal(one, two)


def test_a_sequence_tells_its_flicker(weights, tmp_path, capsys):
    rows = {"f1.png": 10, "f2.png": 10, "f10.png": 25}
    for name, row in rows.items():
        line_art(tmp_path / "frames" / name, row)
    reference = line_art(tmp_path / "reference.png")
    user.run(tmp_path / "frames", reference, weights, tmp_path / "out", sequence=True)
    told = capsys.readouterr().out.splitlines()
    assert [Path(line).name for line in told[:3]] == list(rows)
    mean, most = (float(found) for found in re.findall(r"(\d+\.\d\d) (?:of|at)", told[3]))
    assert most > 0 and abs(mean - most / 2) <= 0.01 and told[3].endswith("from f2.png to f10.png")
    assert (tmp_path / "out/f1.png").read_bytes() == (tmp_path / "out/f2.png").read_bytes()
    with pytest.raises(ParameterError, match="--sequence: wants a folder"):
        user.run(tmp_path / "frames", tmp_path / "frames", weights, tmp_path / "more", sequence=True)


def test_a_thin_drawing_on_a_large_canvas_is_answered_with_its_lines(weights, tmp_path):
    thin = Image.new("L", (900, 900), 255)
    ImageDraw.Draw(thin).ellipse((300, 300, 600, 600), outline=0, width=1)
    thin.save(tmp_path / "thin.png")
    Image.new("RGB", (9, 9), (200, 80, 40)).save(tmp_path / "reference.png")
    user.run(
        tmp_path / "thin.png", tmp_path / "reference.png", weights, tmp_path / "c.png",
        fit="sketch", show_lines=tmp_path / "lines.png",
    )  # fmt: skip
    ink = np.asarray(thin) == 0
    answer = np.asarray(Image.open(tmp_path / "c.png"))
    assert 0 < ink.mean() < 0.005
    assert (answer[ink] == 0).all() and (answer[~ink].max(axis=-1) > 0).mean() > 0.99
    assert np.asarray(Image.open(tmp_path / "lines.png")).min() < 150
