"""`ssimbad colorize`: any sketch, and nothing of the user's is harmed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ssimbad.colorize import folders, user
from ssimbad.errors import ParameterError, UserError


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


def as_folder(where, name):
    """A folder for answers that holds somebody's own picture under the name of one of them."""
    folder = where / "album"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / name)
    return folder
