"""Figures of the schedule study: degradation curves, noisy pictures, R² bars."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from ssimbad.errors import there
from ssimbad.noise.transforms import make
from ssimbad.reporting.style import PALETTE, save, styled
from ssimbad.schedule.selection import PUBLISHED_R2, Criterion, Row
from ssimbad.schedule.ssim_curves import Curves, ddpm_curve, sigma_curve

_BLUE, _ORANGE, _GREEN, *_ = PALETTE
_COLUMNS = 8


@dataclass(frozen=True)
class _Panel:
    title: str
    xlabel: str
    x: np.ndarray  # (P,)
    ssim: np.ndarray  # (N, P)
    r2: float
    paper: str
    colour: str


def degradation(
    sigma: Curves,
    ddpm: Curves,
    criterion: Criterion,
    chosen: Row,
    r2: dict[str, float],
    png: Path,
    pdf: Path,
) -> None:
    """SSIM against the axis of each schedule, with the straight line and its R², the paper's beside it.

    `r2` holds the mean R² by candidate name.
    """
    edm = criterion.levels(make({"form": "edm"}))
    phi = make(there(chosen.spec), criterion.saturation)
    own = criterion.levels(phi)
    panels = [
        _Panel(
            "DDPM",
            "timestep",
            ddpm.levels,
            ddpm.ssim,
            r2["ddpm"],
            f"published {PUBLISHED_R2['ddpm']:.4f}",
            _BLUE,
        ),
        _Panel(
            "EDM, drawn against ln σ as published",
            "ln σ",
            np.log(edm),
            sigma.at(edm),
            r2["edm-ln"],
            f"published {PUBLISHED_R2['edm-ln']:.4f}",
            _ORANGE,
        ),
        _Panel(
            "EDM, on the axis it samples evenly",
            "σ$^{1/7}$",
            edm ** (1 / 7),
            sigma.at(edm),
            r2["edm"],
            "",
            _ORANGE,
        ),
        _Panel(
            f"φ* = {_math(chosen.axis)}",
            "φ*(σ)",
            phi.forward(own),
            sigma.at(own),
            float(chosen.r2.mean()),
            f"published, c = 0.3: {PUBLISHED_R2['rational-0.3']:.4f}",
            _GREEN,
        ),
    ]
    with styled():
        fig, axes = plt.subplots(2, 2, figsize=(8.2, 6.2), layout="constrained", sharey=True)
        for axis, panel in zip(axes.flat, panels, strict=True):
            _draw(axis, panel)
        for axis in axes[:, 0]:
            axis.set_ylabel("SSIM to the clean face")
        fig.suptitle(f"How a face degrades: mean of {len(sigma.ids)} faces, equal steps along each axis")
        save(fig, png, pdf)


def _draw(axis: Axes, panel: _Panel) -> None:
    mean = panel.ssim.mean(axis=0)
    low, high = np.quantile(panel.ssim, [0.1, 0.9], axis=0)
    line = np.poly1d(np.polyfit(panel.x, mean, 1))
    paper = f" ({panel.paper})" if panel.paper else ""
    axis.fill_between(panel.x, low, high, color=panel.colour, alpha=0.2, lw=0, label="10–90 % of the faces")
    axis.plot(panel.x, mean, "o", ms=3, color=panel.colour, label="mean SSIM")
    axis.plot(panel.x, line(panel.x), "--", lw=1.2, color="black", label=f"line, R² {panel.r2:.4f}{paper}")
    axis.set(title=panel.title, xlabel=panel.xlabel, ylim=(-0.15, 1.15))
    handles, labels = axis.get_legend_handles_labels()
    axis.legend(handles[::-1], labels[::-1], loc="upper right", fontsize=8)


def noisy_grid(
    face: np.ndarray,
    noise: np.ndarray,
    alpha_bar: np.ndarray,
    criterion: Criterion,
    chosen: Row,
    png: Path,
    pdf: Path,
) -> None:
    """One face at equal steps of DDPM, EDM and phi*, the same noise everywhere, SSIM under each picture.

    `face` (S, S, 3) uint8, `noise` (S, S, 3), `alpha_bar` (T,).
    """
    steps = np.rint(np.linspace(0, len(alpha_bar) - 1, _COLUMNS)).astype(int)
    a = alpha_bar[steps]
    phi = make(there(chosen.spec), criterion.saturation)
    even = Criterion(_COLUMNS, criterion.sigma_min, criterion.sigma_max, criterion.saturation)
    edm, own = even.levels(make({"form": "edm"}))[::-1], even.levels(phi)[::-1]
    one = np.ones(_COLUMNS)
    rows = [
        ("DDPM", np.sqrt(a), np.sqrt(1 - a), [f"t = {t}" for t in steps], ddpm_curve(face, noise, a)),
        ("EDM", one, edm, [f"σ = {s:.3g}" for s in edm], sigma_curve(face, noise, edm)),
        ("φ*", one, own, [f"σ = {s:.3g}" for s in own], sigma_curve(face, noise, own)),
    ]
    clean = face / 127.5 - 1
    side = face.shape[0]
    pitch = side + max(2, side // 16)
    with styled():
        fig, axes = plt.subplots(3, 1, figsize=(_COLUMNS * 1.25, 5.0), layout="constrained")
        for axis, (name, scales, sigmas, levels, ssim) in zip(axes, rows, strict=True):
            strip = np.ones((side, pitch * _COLUMNS - (pitch - side), 3))
            for k, (scale, sigma) in enumerate(zip(scales, sigmas, strict=True)):
                tile = (np.clip(scale * clean + sigma * noise, -1, 1) + 1) / 2
                strip[:, k * pitch : k * pitch + side] = tile
            axis.imshow(strip, interpolation="nearest")
            captions = [f"{level}\nSSIM {value:.2f}" for level, value in zip(levels, ssim, strict=True)]
            axis.set_xticks(np.arange(_COLUMNS) * pitch + side / 2, captions, fontsize=8)
            axis.set_yticks([])
            axis.tick_params(length=0)
            axis.grid(visible=False)
            axis.spines[:].set_visible(False)
            axis.set_ylabel(name, fontsize=11, rotation=0, ha="right", va="center")
        fig.suptitle(f"Equal steps along each schedule; φ* = {_math(chosen.axis)}")
        save(fig, png, pdf)


def r2_bars(table: list[dict[str, str]], size: int, images: int, png: Path, pdf: Path) -> None:
    """Mean R² of every row of the table with its interval, best on top; the paper's values as diamonds."""
    rows = sorted(table, key=lambda row: float(row["r2"]))
    groups = {
        "published": ("the 22 published candidates", PALETTE[5]),
        "other": ("other schedules", PALETTE[4]),
        "family": ("chosen here", PALETTE[2]),
    }
    with styled():
        # Labels hang over the canvas; saving crops to what is drawn, which is cheaper than a layout engine.
        fig, axis = plt.subplots(figsize=(6.5, 0.27 * len(rows)))
        value = np.array([float(row["r2"]) for row in rows])
        ends = [[float(row[key] or row["r2"]) for row in rows] for key in ("ci_low", "ci_high")]
        spread = np.abs(value - ends)
        axis.barh(range(len(rows)), value, color=[groups[row["group"]][1] for row in rows], height=0.72)
        axis.errorbar(value, range(len(rows)), xerr=spread, fmt="none", ecolor="black", elinewidth=0.9, capsize=2)
        paper = [(float(row["published"]), y) for y, row in enumerate(rows) if row["published"]]
        x, y = zip(*paper, strict=True)
        (mark,) = axis.plot(
            x, y, marker="D", ms=6, mfc="white", mec=PALETTE[1], mew=1.5, ls="", label="published value"
        )
        for y, v in enumerate(value):
            axis.text(1.03, y, f"{v:.4f}", va="center", fontsize=8)
        axis.set_yticks(range(len(rows)), [_bar_label(row) for row in rows], fontsize=8)
        axis.set(xlim=(0, 1.12), ylim=(-0.6, len(rows) - 0.4), xlabel="mean R² of SSIM against the axis")
        axis.set_xticks(np.linspace(0, 1, 6))
        axis.grid(axis="y", visible=False)
        axis.set_title(f"{images} faces at {size} px; whiskers: bootstrap interval of the mean")
        handles = [Patch(color=colour, label=text) for text, colour in groups.values()]
        axis.legend(handles=[*handles, mark], loc="upper center", bbox_to_anchor=(0.4, -0.07), ncols=4, fontsize=8)
        save(fig, png, pdf)


def _bar_label(row: dict[str, str]) -> str:
    if row["group"] == "family":
        text, found = row["label"].split(": ") if ": " in row["label"] else ("", row["label"])
        return f"{text}: {_math(found)}" if text else found
    against = "" if row["axis"] in row["label"] else f" against {_math(row['axis'])}"
    return f"{_math(row['label'])}{against}"


def _math(label: str) -> str:
    """The tables' plain notation in the paper's letters: s is sigma, powers are raised."""
    letters = re.sub(r"\bs\b", "σ", label)
    return re.sub(r"\^\((\d+/\d+)\)|\^([\d.]+)", r"$^{\1\2}$", letters)
