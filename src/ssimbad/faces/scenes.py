"""Backgrounds that are not one flat colour: what stands behind embedded faces with `embedded.background: scene`.

A scene is a geometry times three colours of the palette: the backdrop, which is the colour of a flat background, and
two of its own. Every geometry shows all three beside a figure, in areas with black outlines like the faces' (a gradient
has none inside). So the true answer for a sketch with somebody else's colours is known here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import resvg_py

from ssimbad.seeding import derive

COLOURS = ("background", "far", "near")
"""Of the palette: the backdrop, and what stands before it at a distance and close by."""

_INK = 'stroke="#000000" stroke-width="1.2" stroke-linejoin="round"'


def draw_geometry(rng: np.random.Generator) -> str:
    """`<kind>-<number>`: which kind, and what its places and sizes are drawn from."""
    kinds = list(_KINDS)
    return f"{kinds[rng.integers(len(kinds))]}-{rng.integers(2**31)}"


def render(geometry: str, colours: Mapping[str, str], size: int) -> bytes:
    """One opaque square PNG of `size` pixels; the same bytes on every call.

    Args:
        geometry: of `draw_geometry`.
        colours: `#rrggbb` by the names of `COLOURS`.
    """
    kind, _, number = geometry.partition("-")
    rng = np.random.default_rng(derive(int(number), "scene", kind))
    inside = "".join(_KINDS[kind](rng, *(colours[name] for name in COLOURS)))
    paper = f'<rect x="-1" y="-1" width="102" height="102" fill="{colours["background"]}"/>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">{paper}{inside}</svg>'
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True))


def _rect(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill="{fill}" {_INK}/>'


def _circle(x: float, y: float, radius: float, fill: str) -> str:
    return f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{radius:.2f}" fill="{fill}" {_INK}/>'


def _polygon(points: list[tuple[float, float]], fill: str) -> str:
    return f'<polygon points="{" ".join(f"{x:.2f},{y:.2f}" for x, y in points)}" fill="{fill}" {_INK}/>'


def _turned(degrees: float, parts: Iterator[str]) -> Iterator[str]:
    yield f'<g transform="rotate({degrees:.2f} 50 50)">'
    yield from parts
    yield "</g>"


def _stripes(rng: np.random.Generator, backdrop: str, far: str, near: str) -> Iterator[str]:
    width, fills = rng.uniform(9, 16), (far, near, backdrop)
    bands = (_rect(-50 + i * width, -50, width, 200, fills[i % 3]) for i in range(math.ceil(200 / width)))
    return _turned(rng.uniform(0, 180), bands)


def _checks(rng: np.random.Generator, backdrop: str, far: str, near: str) -> Iterator[str]:
    side, fills = rng.uniform(12, 20), (backdrop, far, near)
    count = math.ceil(200 / side)
    cells = ((i, j) for i in range(count) for j in range(count) if (i + j) % 3)
    return _turned(
        rng.uniform(0, 90), (_rect(-50 + i * side, -50 + j * side, side, side, fills[(i + j) % 3]) for i, j in cells)
    )


def _dots(rng: np.random.Generator, backdrop: str, far: str, near: str) -> Iterator[str]:
    pitch = rng.uniform(17, 24)
    for i in range(math.ceil(100 / pitch) + 1):
        for j in range(math.ceil(100 / pitch) + 1):
            x, y = rng.uniform(-0.15, 0.15, 2) * pitch
            radius = pitch * rng.uniform(0.24, 0.34)
            yield _circle((i + (j % 2) / 2) * pitch + x, j * pitch + y, radius, (far, near)[(i + j) % 2])


def _gradient(rng: np.random.Generator, backdrop: str, far: str, near: str) -> Iterator[str]:
    """A sky that goes over from the backdrop to the far colour, above ground."""
    horizon, lean = rng.uniform(62, 75), rng.uniform(-15, 15)
    line = f'x1="50" y1="12" x2="{50 + lean:.2f}" y2="{0.75 * horizon:.2f}"'
    yield f'<linearGradient id="sky" gradientUnits="userSpaceOnUse" {line}>'
    yield f'<stop offset="0" stop-color="{backdrop}"/><stop offset="1" stop-color="{far}"/></linearGradient>'
    yield f'<rect x="0" y="0" width="100" height="{horizon:.2f}" fill="url(#sky)"/>'
    yield _rect(-5, horizon, 110, 110, near)


def _hills(rng: np.random.Generator, backdrop: str, far: str, near: str) -> Iterator[str]:
    """Two rows of hills below a sun."""
    yield _circle(rng.choice([rng.uniform(8, 22), rng.uniform(78, 92)]), rng.uniform(8, 18), rng.uniform(7, 11), near)
    for height, fill in ((rng.uniform(35, 50), far), (rng.uniform(66, 76), near)):
        phase, waves = rng.uniform(0, 2 * math.pi), rng.uniform(1.5, 3)
        crest = [(x, height + 7 * math.sin(phase + waves * math.pi * x / 50)) for x in np.arange(-5.0, 106.0, 2.5)]
        yield _polygon([*crest, (105, 110), (-5, 110)], fill)


def _city(rng: np.random.Generator, backdrop: str, far: str, near: str) -> Iterator[str]:
    """Houses with lit windows."""
    x = -rng.uniform(0, 6)
    while x < 100:
        width, roof = rng.uniform(13, 20), rng.uniform(18, 45)
        yield _rect(x, roof, width, 110 - roof, far)
        panes = 2 if width < 16 else 3
        for row in np.arange(roof + 4, 100, 11):
            for pane in range(panes):
                yield _rect(x + (pane + 0.15) * width / panes, row, 0.7 * width / panes, 7, near)
        x += width + rng.choice([0, rng.uniform(2, 5)])


def _things(rng: np.random.Generator, backdrop: str, far: str, near: str) -> Iterator[str]:
    """Boxes, triangles and stars strewn about."""
    pitch = 25
    for i, (row, column) in enumerate((r, c) for r in range(4) for c in range(4)):
        x, y = (column + 0.5) * pitch + rng.uniform(-4, 4), (row + 0.5) * pitch + rng.uniform(-4, 4)
        radius, turn, corners = rng.uniform(9, 12), rng.uniform(0, 2 * math.pi), int(rng.choice([3, 4, 10]))
        shares = [0.5 if corners == 10 and k % 2 else 1 for k in range(corners)]
        angles = [turn + 2 * math.pi * k / corners for k in range(corners)]
        points = [
            (x + radius * share * math.cos(a), y + radius * share * math.sin(a))
            for share, a in zip(shares, angles, strict=True)
        ]
        yield _polygon(points, (far, near)[(i + row) % 2])


_KINDS: dict[str, Callable[[np.random.Generator, str, str, str], Iterator[str]]] = {
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "gradient": _gradient,
    "hills": _hills,
    "city": _city,
    "things": _things,
}
