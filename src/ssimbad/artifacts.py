"""Files that the stages write: complete or absent, and the same bytes for the same content.

Every writer goes to a temporary name in the same folder and renames; no file holds a time, a host or a random order.
"""

import csv
import ctypes
import errno
import hashlib
import io
import json
import os
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssimbad.errors import UserError
from ssimbad.files import BROKEN

_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
_witnesses: list[Callable[[Path, Path], None]] = []


@contextmanager
def witnessed(note: Callable[[Path, Path], None]) -> Iterator[None]:
    """While the block lasts, `note(temporary, path)` sees every file of this process before it becomes `path`."""
    _witnesses.append(note)
    try:
        yield
    finally:
        _witnesses.remove(note)


def stands(path: Path) -> None:
    """Show the witnesses a file that is already what it should be, and is therefore not written."""
    for note in _witnesses:
        note(path, path)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on failure it disappears."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        # Without it a machine that loses its power may keep the new name and not the bytes.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        for note in _witnesses:
            note(temporary, path)
        os.replace(temporary, path)
        sync_names(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say which file was too much
        raise
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """A folder, and those above it that are missing, whose names the disk then holds too."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_names(place.parent)


_NO_SUCH_THING = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
"""What file systems say whose folders cannot be synced."""


def sync_names(folder: Path) -> None:
    """Have the disk hold the names of a folder: what was there before a file may be removed once that is written."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that one may write to and not list
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SUCH_THING:
            raise
    finally:
        os.close(descriptor)


def settle(folder: Path) -> None:
    """Have the disk hold all that was written so far to the file system of this folder, names included.

    For what others wrote (DVC, MLflow), who do not ask for it themselves.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if not hasattr(library, "syncfs"):  # a Linux call; the general one waits for other disks, too
            os.sync()
        elif library.syncfs(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, where there is nothing; on success it becomes `path`, on failure it
    disappears. What is in it is written by the functions below."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        temporary.mkdir()
        yield temporary
        temporary.rename(path)
        sync_names(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_bytes(path: Path, data: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def copy(source: Path, target: Path, expected: str | None = None) -> None:
    """A copy of its own: no hard link is shared.

    Args:
        expected: SHA-256 of the bytes.

    Raises:
        UserError: they are others; `target` is as it was.
    """
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
        if expected is not None and sha256(temporary) != expected:
            raise UserError(f"{source}: damaged, its SHA-256 is not {expected}")


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Sorted keys, indented, newline at the end; NaN is refused (write None for "unknown")."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def parsed_json(path: Path) -> Any:
    """The values in a JSON file. Raises OSError as of any file, ValueError when it is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("values in values in values, too deep to read") from None


def read_json(path: Path) -> Any:
    """The values in a stage's JSON file. Raises UserError when it is missing or cannot be read."""
    try:
        return parsed_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: not there; run the stage that makes it (`ssimbad status` names it)") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete it and run its stage again") from None


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any] | Sequence[Any]]) -> None:
    """A header and a line per row; None and NaN are empty fields, and so is what a mapping lacks of the columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    # A carriage return alone is no reason for quotes to the writer, and the end of a line to readers.
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(columns)
    for row in rows:
        values = map(row.get, columns) if isinstance(row, Mapping) else row
        fields = ["" if value is None or value != value else value for value in values]
        (quoting if any("\r" in str(field) for field in fields) else writer).writerow(fields)
    write_text(path, text.getvalue())


def write_array(path: Path, array: np.ndarray) -> None:
    """One array as .npy (no pickle), readable with `np.load(path, mmap_mode="r", allow_pickle=False)`."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)


@contextmanager
def growing(path: Path, row: tuple[int, ...]) -> Iterator[Callable[[np.ndarray], None]]:
    """An array (N, *row) uint8 of as many rows as are put: the bytes of `write_array`, and one row of it in memory."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        count = 0

        def begin() -> None:
            # NumPy pads the header, so that it is as long for any number of rows.
            head = {"descr": "|u1", "fortran_order": False, "shape": (count, *row)}
            np.lib.format.write_array_header_1_0(file, head)

        def put(image: np.ndarray) -> None:
            nonlocal count
            if image.shape != row or image.dtype != np.uint8:
                raise ValueError(f"{path}: {image.shape} {image.dtype} is no row of {row} bytes")
            file.write(np.ascontiguousarray(image).data)
            count += 1

        begin()
        yield put
        file.seek(0)
        begin()


def read_array(path: Path) -> np.ndarray:
    """Memory-mapped read of `write_array`'s file. Raises UserError when it is missing or is no plain array."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: not there; run the stage that makes it (`ssimbad status` names it)") from None
    except ValueError as error:
        raise UserError(f"{path}: not a plain NumPy array ({error}); delete it and run its stage again") from None


def png_bytes(image: np.ndarray) -> bytes:
    """(H, W), (H, W, 3) or (H, W, 4) uint8 → PNG, without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def write_zip(path: Path, members: Iterable[tuple[str, bytes]], comment: bytes = b"") -> None:
    """Stored (not deflated) archive with fixed dates; members in the order given."""
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = comment
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name, _ZIP_DATE), data)


def read_png_zip(path: Path) -> dict[str, np.ndarray]:
    """{id: (H, W, 3) uint8} of an archive of `<id>.png`. Raises UserError when it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                name.removesuffix(".png"): np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
                for name in archive.namelist()
                if name.endswith(".png")
            }
    except FileNotFoundError:
        raise UserError(f"{path}: not there; run the stage that makes it (`ssimbad status` names it)") from None
    except (*BROKEN, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path}: not a readable archive of PNGs ({error}); delete it and run its stage again"
        ) from None
