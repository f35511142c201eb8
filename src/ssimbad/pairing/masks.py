"""Where the figure is: as somebody knows it, or found in the picture by a rule or by a segmentation network.

Whatever finds it is a `Finder`. Of the two rules of our own background is what hangs together with the border of the
picture, its bottom excepted, where figures are cut off: in a colour picture by its colour, in a sketch by paper without
a line between. A network is anybody's file of the form in which SkyTNT's anime-segmentation exports its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from scipy import ndimage

from ssimbad.errors import UserError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, NodeArg

Finder = Callable[[np.ndarray], np.ndarray]
"""(H, W, 3) colours or (H, W) sketch, uint8 → (H, W) uint8, 255 = figure, soft at its edge."""

_SAME, _OTHER = 12.0, 48.0
"""Distances from the background's colour, largest channel of 255: up to the first all background, from the second on
all figure."""
_PAPER = 200
_GAP = 1 / 64
"""Gaps of lines up to twice this share of the sketch's side count as closed."""
_SIDE, _LARGEST = 1024, 4096
"""Sides that a network is shown, pixels: where it leaves it open, and at most."""
_SLACK = 1e-3
"""By so much a network may leave [0, 1], as rounding does."""
_FORM = (
    "an ONNX file, whole in itself, with one float32 input (1, 3, S, S), RGB in [0, 1], and one float32 output"
    " (1, 1, S, S) in [0, 1], 1 = figure"
)


def of(picture: np.ndarray, known: np.ndarray | None, find: Finder) -> np.ndarray:
    """The mask of a picture: the known one as it is, true or given, (H, W) uint8; else what the finder finds."""
    return find(picture) if known is None else known


def of_face(picture: np.ndarray) -> np.ndarray:
    """By the distance from the border's median colour: for pictures before one flat colour, or nearly so."""
    background = np.median(_border(picture), axis=0)
    distance = np.abs(picture.astype(np.float32) - background).max(axis=-1)
    figure = np.clip((distance - _SAME) / (_OTHER - _SAME), 0, 1)
    outside = ndimage.binary_dilation(_from_border(figure < 0.5), iterations=1)
    return _bytes(np.where(outside, figure, 1.0))


def of_sketch(sheet: np.ndarray) -> np.ndarray:
    """By flooding the paper from the border, gaps of lines closed: all paper that is reached is background."""
    width = max(1, round(_GAP * max(sheet.shape)))
    free = ndimage.distance_transform_cdt(sheet >= _PAPER, metric="chessboard") > width
    flooded = ndimage.distance_transform_cdt(~_from_border(_open_border(free, sheet >= _PAPER)), metric="chessboard")
    outside = (flooded <= width) & (sheet >= _PAPER)
    return _bytes(ndimage.uniform_filter((~outside).astype(np.float32), 3))


def _open_border(free: np.ndarray, paper: np.ndarray) -> np.ndarray:
    """What is free, and the paper of the border itself, whose distance to lines says nothing of gaps."""
    opened = free.copy()
    for edge in (np.s_[0], np.s_[:, 0], np.s_[:, -1]):
        opened[edge] |= paper[edge]
    return opened


def _border(picture: np.ndarray) -> np.ndarray:
    """(n, 3): the pixels of the upper, left and right edge."""
    return np.concatenate([picture[0], picture[:, 0], picture[:, -1]])


def _from_border(open_: np.ndarray) -> np.ndarray:
    """Of (H, W) bool the parts that hang together with the upper, left or right edge."""
    parts, _ = ndimage.label(open_)
    reached = np.unique(np.concatenate([parts[0], parts[:, 0], parts[:, -1]]))
    return np.isin(parts, reached[reached > 0])


def _bytes(share: np.ndarray) -> np.ndarray:
    return np.rint(255 * share).astype(np.uint8)


def of_network(path: Path) -> Finder:
    """A finder by a segmentation network: an ONNX file with one float32 input (1, 3, S, S), RGB in [0, 1], and one
    output (1, 1, S, S) in [0, 1], 1 = figure. What it leaves open of S is 1024.

    It is shown the whole picture, enlarged or shrunk to fit into the square and padded by black to it, on the CPU and
    by one thread, so that several pictures can be looked at side by side. The file alone is read: neither libraries of
    operators nor weights in other files.

    Raises:
        UserError: the file is something else, or, of the finder, the network answers something else.
    """
    session = _session(path)
    name, side = _input(session, path)

    def find(picture: np.ndarray) -> np.ndarray:
        shown, inside = _squared(picture, side)
        try:
            (answer,) = session.run(None, {name: shown})
        except Exception as error:  # onnxruntime has a dozen types for what goes wrong in a network
            raise _unfit(path, f"it cannot be run, {_said(error)}") from None
        found = Image.fromarray(_share(answer, side, path)[inside])
        height, width = picture.shape[:2]
        return _bytes(np.clip(np.asarray(found.resize((width, height), Image.Resampling.BILINEAR)), 0, 1))

    return find


def _session(path: Path) -> InferenceSession:
    """What runs the network of a file and of no other one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is told by an exception
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        with tempfile.TemporaryDirectory() as empty:  # the only folder in which it may look for other files
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", empty)
            return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name {_FORM}") from None
    except Exception as error:  # see above
        raise _unfit(path, _said(error)) from None


def _input(session: InferenceSession, path: Path) -> tuple[str, int]:
    """The name of the one picture that the network is shown, and its side."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if [x.type for x in (*inputs, *outputs)] != ["tensor(float)"] * 2 or len(inputs) != 1:
        raise _unfit(path, f"it has inputs {_told(inputs)} and outputs {_told(outputs)}")
    shape = inputs[0].shape
    sides = {size for size in shape[2:] if isinstance(size, int)}
    batch_and_colours = [size for size, wanted in zip(shape, (1, 3), strict=False) if size not in (wanted, None)]
    if len(shape) != 4 or any(isinstance(size, int) for size in batch_and_colours) or len(sides) > 1:
        raise _unfit(path, f"its input is {_told(inputs)}")
    side = sides.pop() if sides else _SIDE
    if not 1 <= side <= _LARGEST:
        raise _unfit(path, f"its pictures have {side} pixels to a side, more than {_LARGEST} are too many")
    return inputs[0].name, side


def _squared(picture: np.ndarray, side: int) -> tuple[np.ndarray, tuple[slice, slice]]:
    """(1, 3, side, side) float32 in [0, 1], and where in it the picture lies."""
    image = Image.fromarray(picture).convert("RGB")
    scale = side / max(image.size)
    width, height = (min(side, max(1, round(length * scale))) for length in image.size)
    left, top = (side - width) // 2, (side - height) // 2
    shown = np.zeros((1, 3, side, side), np.float32)
    inside = np.s_[top : top + height, left : left + width]
    small = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
    shown[0][:, *inside] = small.transpose(2, 0, 1)
    return shown, inside


def _share(answer: Any, side: int, path: Path) -> np.ndarray:
    """(side, side) float32 in [0, 1] of what a network has answered."""
    if getattr(answer, "shape", None) != (1, 1, side, side):
        raise _unfit(path, f"to {side} × {side} pixels it answers {getattr(answer, 'shape', type(answer).__name__)}")
    lowest, highest = answer.min(), answer.max()
    if not (lowest >= -_SLACK and highest <= 1 + _SLACK):  # nor is NaN
        raise _unfit(path, f"it answers {lowest:.3g} to {highest:.3g}")
    return answer[0, 0]


def _unfit(path: Path, why: str) -> UserError:
    return UserError(f"{path}: no network that finds figures ({why}); expected {_FORM}")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _told(tensors: Sequence[NodeArg]) -> str:
    return ", ".join(f"{x.type} {tuple(x.shape or ())}" for x in tensors) or "none"
