"""One look for all figures, and the same bytes for the same figure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from ssimbad.artifacts import replacing

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Okabe & Ito (2008), "Color Universal Design": told apart with every common colour-vision deficiency.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")

_RC: dict[RcKeyType, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 100,
    "font.family": "DejaVu Sans",  # ships with matplotlib: no machine substitutes another
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "pdf.fonttype": 42,
}
_MARGIN = 0.05  # inches around the drawing


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib's defaults plus the house style, for the figures drawn inside the block."""
    with plt.style.context("default"), matplotlib.rc_context(_RC):
        yield


def save(fig: Figure, png: Path, pdf: Path | None = None) -> None:
    """Write the PNG (150 dpi), and the PDF if asked, without dates, each complete or absent, and close the figure."""
    with styled():
        # Laid out and measured once for both files; savefig would do each again, twice a file.
        fig.draw_without_rendering()
        fig.set_layout_engine("none")
        tight = fig.get_tightbbox().padded(_MARGIN)
        with replacing(png) as temporary:
            fig.savefig(temporary, format="png", dpi=150, bbox_inches=tight, metadata={"Software": None})
        if pdf is not None:
            with replacing(pdf) as temporary:
                no_dates = {"CreationDate": None, "Producer": None, "Creator": None}
                fig.savefig(temporary, format="pdf", bbox_inches=tight, metadata=no_dates)
    plt.close(fig)
