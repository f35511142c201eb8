"""The stages ssim_curves and select_phi: files in, files out."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssimbad import artifacts
from ssimbad.errors import ParameterError, UserError, there
from ssimbad.faces import manifest
from ssimbad.metrics import bootstrap
from ssimbad.noise import ddpm
from ssimbad.noise.transforms import make
from ssimbad.pairing.resize import area
from ssimbad.params.blocks import Schedule
from ssimbad.params.tree import Params
from ssimbad.runtime.job import Job
from ssimbad.schedule import figures
from ssimbad.schedule.selection import (
    PUBLISHED_R2,
    Criterion,
    Row,
    best_c,
    candidate_rows,
    family_rows,
    phi_star,
    resampled_c,
)
from ssimbad.schedule.ssim_curves import (
    Curves,
    ddpm_curve,
    noise,
    sample,
    sigma_curve,
    sigma_grid,
    timestep_grid,
)

_CURVES = ("schedule", "id", "level", "ssim")
_R2 = (
    *("candidate", "group", "label", "axis", "r2", "ci_low", "ci_high"),
    *("versus", "difference", "difference_low", "difference_high"),
    *("held_out", "saturates_at", "published", "n", "c", "c_low", "c_high"),
)


def run_curves(params: Params, inputs: dict[str, Path], outputs: dict[str, Path], job: Job) -> None:
    """Measure SSIM against the noise level, for the sampled training faces (SSIMBaD, arXiv 2506.04283).

    Reads `train` (N, S, S, 3) uint8 and `manifest`; writes `curves`: schedule,id,level,ssim.
    """
    ids, faces = _sampled_faces(params, inputs)
    schedule = params.schedule
    sigmas = sigma_grid(schedule.sigmas, params.noise.sigma_min, params.noise.sigma_max)
    timesteps = timestep_grid(schedule.points, schedule.ddpm.steps)
    alpha_bar = _alpha_bar(params)[timesteps]
    by_sigma, by_timestep = [], []
    with job.progress(len(ids), "faces") as bar:
        for id_, face in zip(ids, faces, strict=True):
            drawn = noise(schedule.seed, id_, schedule.size)
            by_sigma.append(sigma_curve(face, drawn, sigmas))
            by_timestep.append(ddpm_curve(face, drawn, alpha_bar))
            bar.update(1)
    curves = [
        Curves("sigma", ids, sigmas, np.stack(by_sigma)),
        Curves("ddpm", ids, timesteps, np.stack(by_timestep)),
    ]
    artifacts.write_csv(outputs["curves"], _CURVES, _lines(curves))
    job.say(f"ssim_curves: {len(ids)} faces at {schedule.size} px -> {outputs['curves']}")


def run_select(params: Params, inputs: dict[str, Path], outputs: dict[str, Path], job: Job) -> None:
    """Score every candidate, choose phi*, and draw it (SSIMBaD, arXiv 2506.04283).

    Reads `curves`, `train` and `manifest` (the picture grid needs one face); writes `phi_star` (JSON), `r2`
    (CSV) and the figures ssim_degradation, noisy_grid and r2 as <name>_png and <name>_pdf.
    """
    schedule = params.schedule
    sigma, ddpm_curves = _read_curves(inputs["curves"])
    criterion = Criterion(schedule.points, params.noise.sigma_min, params.noise.sigma_max, schedule.saturation)
    rows = candidate_rows(sigma, ddpm_curves, criterion)
    families = family_rows(sigma, criterion, schedule.c_low, schedule.c_high, schedule.seed)
    families = [_with_interval_of_c(row, sigma, criterion, schedule) for row in families]
    star = phi_star(families, schedule.select_from, criterion, len(sigma.ids), schedule.size)
    table = _table([*rows, *families], params)
    artifacts.write_json(outputs["phi_star"], star)
    artifacts.write_csv(outputs["r2"], _R2, table)

    ids, faces = _sampled_faces(params, inputs)
    chosen = next(row for row in families if row.name == schedule.select_from)
    r2 = {line["candidate"]: float(line["r2"]) for line in table}
    figures.degradation(sigma, ddpm_curves, criterion, chosen, r2, *_pair(outputs, "ssim_degradation"))
    drawn = noise(schedule.seed, ids[0], schedule.size)
    figures.noisy_grid(faces[0], drawn, _alpha_bar(params), criterion, chosen, *_pair(outputs, "noisy_grid"))
    figures.r2_bars(table, schedule.size, len(ids), *_pair(outputs, "r2"))
    # Not rounded: of two runs that differ, it tells whether they differ here already.
    c = best_c(sigma, criterion, schedule.c_low, schedule.c_high)
    job.tags(c_unrounded=repr(c))
    job.say(f"select_phi: best c {c!r} before it is rounded")
    job.say(f"select_phi: {chosen.label}, mean R² {chosen.r2.mean():.4f} -> {outputs['phi_star']}")


def _with_interval_of_c(row: Row, curves: Curves, criterion: Criterion, schedule: Schedule) -> Row:
    """The row of the continuous c with the bootstrap interval of c, named with no more digits than that carries."""
    if row.name != "rational":
        return row
    drawn = bootstrap.positions(len(curves.ids), schedule.bootstrap, schedule.seed)
    found = resampled_c(curves, criterion, schedule.c_low, schedule.c_high, drawn)
    low, high = bootstrap.percentiles(found, schedule.confidence)
    spec = there(row.spec)
    c = spec["c"]
    shown = make({**spec, "c": round(c, bootstrap.decimals(c, low, high))}).label
    return replace(row, label=row.label.replace(row.axis, shown), axis=shown, c=(low, high))


def _pair(outputs: dict[str, Path], name: str) -> tuple[Path, Path]:
    return outputs[f"{name}_png"], outputs[f"{name}_pdf"]


def _alpha_bar(params: Params) -> np.ndarray:
    d = params.schedule.ddpm
    return ddpm.alpha_bar(d.steps, d.beta_start, d.beta_end).numpy()


def _sampled_faces(params: Params, inputs: dict[str, Path]) -> tuple[tuple[str, ...], np.ndarray]:
    """Ids and (N, size, size, 3) uint8 faces of the seeded sample of the training set."""
    train_ids = manifest.ids(inputs["manifest"], "train")
    faces = manifest.images(inputs["train"], train_ids)
    wanted, size = params.schedule.images, params.schedule.size
    if wanted > len(faces):
        raise ParameterError(f"schedule.images: {wanted} asked, the training set has {len(faces)}; lower it")
    if faces.shape[1] % size:
        raise ParameterError(f"schedule.size: {size} does not divide data.native_size {faces.shape[1]}")
    places = sample(train_ids, wanted, params.schedule.seed)
    return tuple(train_ids[i] for i in places), area(np.stack([faces[i] for i in places]), size)


def _table(rows: list[Row], params: Params) -> list[dict[str, str]]:
    """The R² table as text. Each row is compared, image by image, with the best other published one."""
    s = params.schedule
    settings = {"resamples": s.bootstrap, "confidence": s.confidence, "seed": s.seed}
    ranked = sorted((r for r in rows if r.group == "published"), key=lambda r: -r.r2.mean())
    table = []
    for row in rows:
        rival = next(r for r in ranked if r.spec != row.spec or r.axis != row.axis)
        own = bootstrap.mean(row.r2, **settings)
        c = (there(row.spec)["c"], *row.c) if row.c else (None,) * 3
        gap = bootstrap.difference(row.r2, rival.r2, **settings)
        line = {
            **{"candidate": row.name, "group": row.group, "label": row.label, "axis": row.axis},
            **{"r2": own.value, "ci_low": own.low, "ci_high": own.high, "versus": rival.name},
            **{"difference": gap.value, "difference_low": gap.low, "difference_high": gap.high},
            "held_out": None if row.held_out is None else float(row.held_out.mean()),
            "saturates_at": row.saturates_at,
            "published": PUBLISHED_R2.get(row.name),
            "n": own.n,
            **dict(zip(("c", "c_low", "c_high"), c, strict=True)),
        }
        table.append({key: _text(value) for key, value in line.items()})
    return table


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def _lines(curves: list[Curves]) -> Iterator[tuple[str, str, str, str]]:
    for c in curves:
        for id_, values in zip(c.ids, c.ssim, strict=True):
            for level, value in zip(c.levels, values, strict=True):
                yield c.schedule, id_, f"{level:.9g}", f"{value:.9f}"


def _read_curves(path: Path) -> tuple[Curves, Curves]:
    """The sigma and the DDPM curves of `run_curves`' file."""
    found: dict[str, dict[str, dict[float, float]]] = {"sigma": {}, "ddpm": {}}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                found[row["schedule"]].setdefault(row["id"], {})[float(row["level"])] = float(row["ssim"])
        return _curves("sigma", found["sigma"]), _curves("ddpm", found["ddpm"])
    except (OSError, KeyError, ValueError, StopIteration) as error:
        raise UserError(f"{path}: no SSIM curves ({error!r}); run the stage ssim_curves again") from None


def _curves(schedule: str, by_id: dict[str, dict[float, float]]) -> Curves:
    levels = np.array(list(next(iter(by_id.values()))))
    if len(levels) < 2 or any(list(values) != levels.tolist() for values in by_id.values()):
        raise ValueError(f"the images of {schedule} do not share two or more levels")
    ssim = np.array([list(values.values()) for values in by_id.values()])
    return Curves(schedule, tuple(by_id), levels, ssim)
