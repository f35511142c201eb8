"""Who hashes a folder finds what those find who read it, and a file that was touched is noticed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ssimbad import files
from ssimbad.faces.sources import store
from ssimbad.files import Seen, below, linked
from ssimbad.pipeline import records


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """One folder with files, a linked folder and linked files, from which one can look around."""
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.png", "in/sub/b.png", "behind/c.png", "behind/deep/d.png", "aside/e.png"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    (tmp_path / "in/linked").symlink_to("../behind")
    (tmp_path / "behind/further").symlink_to("../aside")
    (tmp_path / "in/file.png").symlink_to("../aside/e.png")
    (tmp_path / "in/loop").symlink_to("../in")
    return tmp_path / "in"


def md5(folder: Path) -> str:
    return records.Hashes().md5(str(folder))


def read(folder: Path) -> dict[str, bytes]:
    with store.opened(folder, 10**4) as source:
        return {name: source.read(name) if size is not None else b"-" for name, size in source.sizes.items()}


def test_links_are_entered_once_each(folder):
    assert list(below(folder)) == [
        "a.png", "file.png", "linked/c.png", "linked/deep/d.png", "linked/further/e.png", "sub/b.png",
    ]  # fmt: skip
    assert [str(f.relative_to(folder)) for f in linked(folder)] == ["linked", "linked/further"]


CHANGES = {
    "a file": lambda f: (f / "a.png").write_bytes(b"other"),
    "a new file": lambda f: (f / "new.png").touch(),
    "a lost file": lambda f: (f / "a.png").unlink(),
    "another name": lambda f: (f / "a.png").rename(f / "A.png"),
    "another folder": lambda f: (f / "a.png").rename(f / "sub/a.png"),
    "behind a linked folder": lambda f: (f / "../behind/c.png").write_bytes(b"other"),
    "new behind a linked folder": lambda f: (f / "../behind/deep/new.png").touch(),
    "behind two links": lambda f: (f / "../aside/new.png").touch(),
    "behind a linked file": lambda f: (f / "../aside/e.png").write_bytes(b"other"),
    "a linked folder gone": lambda f: (f / "linked").unlink(),
    "a new linked folder": lambda f: (f / "0").symlink_to("../aside"),
    "a broken link": lambda f: (f / "broken.png").symlink_to("nowhere"),
    "a pipe": lambda f: os.mkfifo(f / "pipe.png"),
    "a name that is no UTF-8": lambda f: Path(os.fsdecode(os.fsencode(f) + b"/\xff.png")).touch(),
    "a line in a name": lambda f: (f / "a.png:0\nb.png").touch(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_a_reader_of_the_folder_meets_is_in_its_digest(folder, change):
    digest, seen, content = md5(folder), Seen([str(folder)]), read(folder)
    assert md5(folder) == digest
    assert seen.touched() is None
    change(folder)
    assert read(folder) != content
    assert md5(folder) != digest
    assert seen.touched() == str(folder)


def test_the_digest_is_that_of_the_content_alone(folder, tmp_path):
    """Not of where it lies, of the order in which it was made, or of what is linked and what copied."""
    copy = tmp_path / "copy"
    for name, file in reversed(below(folder).items()):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(file.read_bytes())
    assert md5(copy) == md5(folder)


def replaced(file: Path, text: str) -> None:
    other = file.with_name("other")
    other.write_text(text)
    os.utime(other, ns=(file.stat().st_mtime_ns,) * 2)
    other.replace(file)


def overwritten(file: Path, text: str) -> None:
    """As `cp -p` does it: the inode stays, and the time is that of the other file."""
    time = file.stat().st_mtime_ns
    file.write_text(text)
    os.utime(file, ns=(time, time))


@pytest.mark.parametrize("change", [replaced, overwritten])
def test_a_file_of_equal_size_and_time_is_hashed_anew(tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "face"
    for text in ("face", "scar"):
        if file.exists():
            change(file, text)
        else:
            file.write_text(text)
        monkeypatch.setattr(records.time, "time_ns", lambda: file.stat().st_ctime_ns + 10**12)  # long after
        with records.hashes() as hashed:
            found = hashed.md5("face")
        assert found == records.Hashes().md5("face") == records.hashlib.md5(text.encode()).hexdigest()


def test_a_file_that_changes_twice_at_one_time_of_the_clock_is_hashed_anew(tmp_path, monkeypatch):
    """Clocks of file systems tick every few milliseconds, or every two seconds."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "face"
    file.write_text("face")
    same = files.state(file)
    monkeypatch.setattr(files, "state", lambda path: same)
    first = records.Hashes()
    assert first.md5("face") == records.hashlib.md5(b"face").hexdigest()
    first.save()
    file.write_text("scar")
    assert first.md5("face") == records.Hashes().md5("face") == records.hashlib.md5(b"scar").hexdigest()


def test_what_has_lain_still_is_hashed_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "face").write_text("face")
    later = (tmp_path / "face").stat().st_ctime_ns + 3 * 10**9
    monkeypatch.setattr(records.time, "time_ns", lambda: later)
    with records.hashes() as hashed:
        digest = hashed.md5("face")
    monkeypatch.setattr(records.hashlib, "file_digest", None)
    assert records.Hashes().md5("face") == digest


@pytest.mark.parametrize(
    "memo",
    [
        "", "[]", "{", "[" * 100_000, "\xff", '{"face": []}', '{"face": null}', '{"face": "old"}', '{"face": {"0": 1}}',
        '{"face": [4, 5, 6, "old"]}', '{"face": STATE}', '{"face": [STATE, "old"]}', '{"face": STATE_AND_NULL}',
    ],
)  # fmt: skip
def test_a_memo_that_is_none_is_made_anew(tmp_path, monkeypatch, memo):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "face").write_text("face")
    (tmp_path / ".state").mkdir()
    state = json.dumps(list(files.state(tmp_path / "face")))
    memo = memo.replace("STATE_AND_NULL", f"{state[:-1]}, {10**20}, null]").replace("STATE", state)
    (tmp_path / ".state/md5.json").write_text(memo, encoding="latin-1")
    assert records.Hashes().md5("face") == records.hashlib.md5(b"face").hexdigest()


def there_and_back(file: Path) -> None:
    file.rename("aside.png")
    file.write_text("other")
    Path("aside.png").rename(file)


def bent_and_back(file: Path) -> None:
    leads = file.readlink()
    file.unlink()
    file.symlink_to("elsewhere")
    file.unlink()
    file.symlink_to(leads)


def folder_and_back(file: Path) -> None:
    file.parent.rename("elsewhere")
    Path("elsewhere").rename(file.parent)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (there_and_back, "in/a.png"),
        (there_and_back, "behind/c.png"),
        (bent_and_back, "in/file.png"),
        (bent_and_back, "in/linked"),
        (folder_and_back, "in/sub/b.png"),
        (folder_and_back, "behind/deep/d.png"),
    ],
)
def test_who_puts_something_else_there_for_a_while_is_noticed(folder, change, name):
    digest, seen = md5(folder), Seen(["in"])
    change(Path(name))
    assert md5(folder) == digest
    assert seen.touched() == "in"


def test_a_link_that_leads_elsewhere_for_a_while_is_noticed_by_itself(folder):
    seen = Seen(["in/file.png"])
    bent_and_back(folder / "file.png")
    assert seen.touched() == "in/file.png"


def test_reading_and_linking_to_it_touches_nothing(folder):
    seen = Seen(["in", "behind/c.png", "nowhere"])
    read(folder)
    md5(folder)
    Path("other").symlink_to("behind/c.png")
    assert seen.touched() is None
    Path("nowhere").touch()
    assert seen.touched() == "nowhere"
