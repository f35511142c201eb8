"""What a command changes on the disk, call by call, as strace tells it: every process and library, SQLite and DVC among
them. And what a power cut would leave of it.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CALLS = "openat,lseek,write,pwrite64,sendfile,fsync,fdatasync,syncfs,ftruncate,rename,unlink,unlinkat,link,linkat"
CALLS += ",mkdir,mkdirat,rmdir"
UNREAD = "creat,writev,pwritev,pwritev2,copy_file_range,renameat,renameat2,truncate,fallocate"
"""None of these has been seen to change a file here; one that does is an error of the model."""


def strace() -> str:
    """Where it is. Skips the test on a machine that has none, or forbids it."""
    found = shutil.which("strace")
    if not found:
        pytest.skip("needs strace (Debian package strace)")
    if subprocess.run((found, "-qq", "-o", "/dev/null", "true"), capture_output=True).returncode:
        pytest.skip("needs the right to trace processes (ptrace)")
    return found


@dataclass(frozen=True)
class Call:
    """One call that succeeded. Paths are those of the moment."""

    kind: str
    """create, append, seek, write, copy, cut, sync, syncfs, rename, unlink, link or mkdir."""
    path: Path
    data: bytes = b""
    number: int = 0
    """Of `write` and `copy`: where the bytes go, -1 behind the last; of `seek`: where; of `cut`: how many stay."""
    other: Path | None = None
    """Of `rename` and `link`: the new name; of `copy`: where the bytes come from."""
    count: int = 0
    """Of `copy`: bytes."""


def recorded(folder: Path, environment: dict[str, str], *words: str) -> list[Call]:
    """Run a command to its good end; what it changed below the folder, in order."""
    log = folder.parent / "calls.log"
    traced = (strace(), "-f", "--seccomp-bpf", "-qq", "-y", "-xx", "-s", "100000000", "-o", str(log))
    told = (*traced, "-e", f"trace={CALLS},{UNREAD}", *words)
    done = subprocess.run(told, cwd=folder, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    calls = [call for line in _lines(log) if (call := _call(line, folder))]
    log.unlink()
    return [call for call in calls if call.path.is_relative_to(folder) and ":[" not in call.path.name]  # pipes


def _lines(log: Path) -> Iterator[str]:
    """Each call in one line, at the place where it ended."""
    begun: dict[str, str] = {}
    with log.open() as file:
        for line in file:
            process, _, said = line.rstrip("\n").partition(" ")
            said = said.lstrip()
            if said.endswith("<unfinished ...>"):
                begun[process] = said.removesuffix("<unfinished ...>")
            elif resumed := re.match(r"<\.\.\. \w+ resumed>", said):
                yield begun.pop(process, "") + said[resumed.end() :]
            else:
                yield said


_TEXT = r'"((?:\\x[0-9a-f]{2})*)"'
_FILE = r"\w+<((?:\\x[0-9a-f]{2})*)>"  # a descriptor with the path that it leads to
_END = r"[^\"<>]*\)\s+= (\d+)"
_PATTERNS = {
    kind: re.compile(pattern + _END)
    for kind, pattern in {
        "open": rf"openat\({_FILE}, {_TEXT}, ([A-Z_|]+)",
        "write": rf"write\({_FILE}, {_TEXT}, \d+",
        "pwrite": rf"pwrite64\({_FILE}, {_TEXT}, \d+, (\d+)",
        "copy": rf"sendfile\({_FILE}, {_FILE}, \[(\d+)\](?: => \[\d+\])?, \d+",
        "sync": rf"f(?:data)?sync\({_FILE}",
        "syncfs": rf"syncfs\({_FILE}",
        "cut": rf"ftruncate\({_FILE}, (\d+)",
        "seek": rf"lseek\({_FILE}, -?\d+, SEEK_[A-Z]+",
        "mkdir": rf"mkdir\({_TEXT}, \d+",
        "mkdirat": rf"mkdirat\({_FILE}, {_TEXT}, \d+",
        "rmdir": rf"rmdir\({_TEXT}",
        "rename": rf"rename\({_TEXT}, {_TEXT}",
        "unlink": rf"unlink\({_TEXT}",
        "unlinkat": rf"unlinkat\({_FILE}, {_TEXT}",
        "link": rf"link\({_TEXT}, {_TEXT}",
        "linkat": rf"linkat\({_FILE}, {_TEXT}, {_FILE}, {_TEXT}",
    }.items()
}


def _call(line: str, folder: Path) -> Call | None:
    """Of a line of a command that ran in `folder`; None where nothing was changed."""
    if " = -1 " in line[-200:] or line.startswith(("---", "+++")):
        return None
    line = re.sub(r"(=\s+\d+)<[^>]*>$", r"\1", line)  # the path of what an open returns is that of its name
    for kind, pattern in _PATTERNS.items():
        if not (found := pattern.match(line)):
            continue
        given = found.groups()

        def at(number: int, given: tuple = given) -> Path:
            name = os.fsdecode(bytes.fromhex(given[number].replace("\\x", ""))).removesuffix(" (deleted)")
            return folder / name

        match kind:
            case "open":
                path, how = at(0) / at(1), given[2].split("|")
                if "O_DIRECTORY" in how or ("O_RDONLY" in how and "O_CREAT" not in how):
                    return None
                kinds = {"O_TRUNC": "cut", "O_APPEND": "append", "O_CREAT": "create"}
                return Call(next((kind for flag, kind in kinds.items() if flag in how), "seek"), path)
            case "write" | "pwrite":
                data = bytes.fromhex(given[1].replace("\\x", ""))
                return Call("write", at(0), data[: int(given[-1])], int(given[2]) if kind == "pwrite" else -1)
            case "copy":
                return Call("copy", at(0), number=int(given[2]), other=at(1), count=int(given[3]))
            case "cut":
                return Call("cut", at(0), number=int(given[1]))
            case "rename" | "link":
                return Call(kind, at(0), other=at(1))
            case "linkat":
                return Call("link", at(0) / at(1), other=at(2) / at(3))
            case "seek":
                return Call("seek", at(0), number=int(given[1]))
            case "mkdirat" | "unlinkat":
                return Call(kind.removesuffix("at"), at(0) / at(1))
            case "rmdir":
                return Call("unlink", at(0))
            case _:
                return Call(kind, at(0))
    name = line.partition("(")[0]
    assert name not in UNREAD.split(",") or str(folder).encode().hex() not in line.replace("\\x", ""), line[:300]
    return None


@dataclass(eq=False)
class _File:
    """What the disk has of a file for certain, and what was done to it since, which it may have in part."""

    safe: bytes = b""
    now: bytearray = field(default_factory=bytearray)
    since: list[tuple[int, bytes | None]] = field(default_factory=list)
    """(place, bytes) written, or (length, None) cut."""
    place: int = 0
    """Where the next write goes."""
    appended: bool = False
    """To the end, wherever that is."""
    folder: bool = False

    def change(self, place: int, data: bytes | None) -> None:
        self.since.append((place, data))
        _changed(self.now, place, data)
        self.place = place + len(data) if data is not None else 0

    def sync(self) -> None:
        self.safe, self.since = bytes(self.now), []

    def left(self, chance: random.Random) -> bytes:
        """After a cut of the power: each write may have reached the disk or not, whatever came later."""
        found = bytearray(self.safe)
        for place, data in self.since:
            if chance.random() < 0.5:
                _changed(found, place, data)
        return bytes(found)


def _changed(content: bytearray, place: int, data: bytes | None) -> None:
    if len(content) < place:
        content.extend(bytes(place - len(content)))
    if data is None:
        del content[place:]
    else:
        content[place : place + len(data)] = data


class Disk:
    """A folder whose changes are not on the disk before they are synced: bytes by their file, names by their folder.

    Most file systems in use sync a new file's name with its bytes, and keep the order of names; this one does neither.
    What is in a folder whose own name is lost is lost. A file that several have opened has one place for all of them.
    """

    def __init__(self, folder: Path) -> None:
        self._root = folder
        found = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        self._safe: dict[Path, _File] = {}
        for path in found:
            data = path.read_bytes()
            self._safe[path] = _File(data, bytearray(data))
        folders = (path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())
        self._safe |= {path: _File(folder=True) for path in folders}
        self._now = dict(self._safe)
        self._since: list[dict[Path, _File | None]] = []
        """Names given (to a file) or taken (None), together where one call did both."""

    def happen(self, call: Call) -> None:
        path, other = call.path, call.other
        match call.kind:
            case "create" | "append":
                file = self._there(path)
                file.place, file.appended = 0, call.kind == "append"
            case "seek" if path in self._now:
                self._now[path].place = call.number
            case "mkdir":
                self._name({path: _File(folder=True)})
            case "cut":
                self._there(path).change(call.number, None)
            case "write":
                file = self._there(path)
                place = len(file.now) if file.appended else file.place
                file.change(place if call.number < 0 else call.number, call.data)
            case "copy":
                file = self._there(path)
                file.change(file.place, bytes(self._now[other].now[call.number : call.number + call.count]))
            case "syncfs":
                for file in {id(file): file for file in self._now.values()}.values():
                    file.sync()
                self._safe, self._since = dict(self._now), []
            case "sync" if path in self._now and not self._now[path].folder:
                self._now[path].sync()
            case "sync":
                self._sync_names(path)
            case "rename":  # of a file, or of a folder with what is in it
                moved = {p: f for p, f in self._now.items() if p.is_relative_to(path)}
                safe = {p: f for p, f in moved.items() if p == path or self._safe.get(p) is f}
                self._name(_moved(safe, path, other))
                for p in [p for p in moved if p not in safe]:  # whose own names the folder's does not bring to the disk
                    self._name(_moved({p: moved[p]}, path, other))
            case "link":
                self._name({other: self._now[path]})
            case "unlink" if path in self._now:
                self._name({path: None})

    def _there(self, path: Path) -> _File:
        if path not in self._now:
            self._name({path: _File()})
        return self._now[path]

    def _name(self, names: dict[Path, _File | None]) -> None:
        self._since.append(names)
        _named(self._now, names)

    def _sync_names(self, folder: Path) -> None:
        # Of a folder that was renamed its own name counts, and not those of what is in it.
        tops = ((names, {path.parent for path in names if path.parent not in names}) for names in self._since)
        mine = [names for names, folders in tops if folder in folders]
        for names in mine:
            _named(self._safe, names)
        self._since = [names for names in self._since if not any(names is other for other in mine)]

    def left(self, chance: random.Random) -> dict[Path, bytes]:
        """{path: bytes} after a cut of the power."""
        names = dict(self._safe)
        for change in self._since:
            if chance.random() < 0.5:
                _named(names, change)
        files = {id(file): file for file in names.values()}
        bytes_ = {key: file.left(chance) for key, file in files.items()}
        return {path: bytes_[id(file)] for path, file in self._reached(names).items()}

    def all(self) -> dict[Path, bytes]:
        """The same where nothing is lost."""
        return {path: bytes(file.now) for path, file in self._reached(self._now).items()}

    def _reached(self, names: dict[Path, _File]) -> dict[Path, _File]:
        """The files that have a way to them."""
        folders = {self._root, *(path for path, file in names.items() if file.folder)}
        found = {path: file for path, file in names.items() if not file.folder}
        return {p: f for p, f in found.items() if all(q in folders for q in p.parents if q.is_relative_to(self._root))}


def _moved(files: dict[Path, _File], old: Path, new: Path) -> dict[Path, _File | None]:
    return dict.fromkeys(files) | {new / path.relative_to(old): file for path, file in files.items()}


def _named(names: dict[Path, _File], change: dict[Path, _File | None]) -> None:
    for path, file in change.items():
        if file is None:
            names.pop(path, None)
        else:
            names[path] = file
