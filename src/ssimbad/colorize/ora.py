"""OpenRaster: a picture in layers, as painting programs exchange it (freedesktop.org, baseline specification)."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from ssimbad.artifacts import png_bytes

MIMETYPE = b"image/openraster"
_VERSION = "0.0.3"
_THUMBNAIL = 256  # pixels, the most that the specification allows


def members(layers: Mapping[str, np.ndarray]) -> list[tuple[str, bytes]]:
    """(name, bytes) of what the archive holds, in order; all of it is to be stored, not deflated, at least the first.

    Args:
        layers: by name from the topmost, (H, W, 4) uint8, colours not multiplied by alpha; all of one size.
    """
    height, width = next(iter(layers.values())).shape[:2]
    document = ElementTree.Element("image", version=_VERSION, w=str(width), h=str(height))
    stack, files, merged = ElementTree.SubElement(document, "stack"), [], Image.new("RGBA", (width, height))
    for number, (name, layer) in enumerate(layers.items()):
        file = f"data/{number}.png"
        about = {"name": name, "src": file, "x": "0", "y": "0", "opacity": "1.0", "visibility": "visible"}
        ElementTree.SubElement(stack, "layer", about | {"composite-op": "svg:src-over"})
        files.append((file, png_bytes(layer)))
    for layer in reversed([*layers.values()]):
        merged = Image.alpha_composite(merged, Image.fromarray(layer))
    files.append(("mergedimage.png", png_bytes(np.asarray(merged))))
    merged.thumbnail((_THUMBNAIL, _THUMBNAIL))
    files.append(("Thumbnails/thumbnail.png", png_bytes(np.asarray(merged))))
    text = ElementTree.tostring(document, encoding="UTF-8", xml_declaration=True)
    return [("mimetype", MIMETYPE), ("stack.xml", text), *files]
