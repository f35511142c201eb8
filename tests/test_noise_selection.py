"""The choice of phi on curves whose answer is known, and the two stages on small faces."""

import csv
import json
import re

import numpy as np
import pytest

from ssimbad.errors import ParameterError, UserError
from ssimbad.metrics import bootstrap
from ssimbad.noise.transforms import PUBLISHED, RATIONAL_GRID, make
from ssimbad.params import tree as parameters
from ssimbad.params.base import Noise
from ssimbad.params.view import View
from ssimbad.runtime.job import Job
from ssimbad.schedule import stages
from ssimbad.schedule.selection import (
    Criterion,
    best_of,
    best_rational,
    candidate_rows,
    empirical,
    family_rows,
    line_r2,
    phi_star,
    resampled_c,
)
from ssimbad.schedule.ssim_curves import Curves, sigma_grid
from ssimbad.tracking import spool

CRITERION = Criterion(50, 0.002, 80.0)
GRID = sigma_grid(32, 0.002, 80.0)


def curves_of(cs):
    """Images whose SSIM falls exactly as 1 - s/(s+c)."""
    ssim = np.stack([1 - GRID / (GRID + c) for c in cs])
    return Curves("sigma", tuple(f"face-{i}" for i in range(len(cs))), GRID, ssim)


TIMESTEPS = Curves("ddpm", ("face-0", "face-1"), np.arange(0, 1000, 111), np.linspace([1, 1], [0, 0.2], 10).T)


def test_line_r2_is_one_on_a_line_and_known_on_a_parabola():
    x = np.linspace(0, 1, 10_001)
    assert line_r2(x, np.stack([3 - 2 * x, x])) == pytest.approx([1, 1])
    assert line_r2(x, x[None] ** 2)[0] == pytest.approx(15 / 16, abs=1e-4)  # exact on a dense grid


@pytest.mark.parametrize("c", [0.05, 0.1862, 0.3, 1.7])
def test_continuous_search_finds_the_c_of_the_data(c):
    found = best_rational(curves_of([c] * 4), CRITERION, 0.01, 3.0)
    assert found["form"] == "rational" and found["c"] == pytest.approx(c, rel=1e-2)


def test_a_c_outside_the_range_ends_at_its_edge():
    assert best_rational(curves_of([0.001]), CRITERION, 0.05, 3.0)["c"] == pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize(
    "curves",
    [
        curves_of(np.exp(np.random.default_rng(0).normal(np.log(0.3), 1.0, 12))),
        curves_of([0.05, 0.05, 2.0, 2.5]),  # two hills of images
        curves_of([0.001, 0.002, 0.02, 0.03]),  # some resamples end at the edge of the search
        curves_of([0.3] * 3),
    ],
    ids=["one hill", "two", "edge", "all alike"],
)
def test_c_of_a_resample_is_what_the_search_finds_on_it(curves):
    drawn = bootstrap.positions(len(curves.ids), 30, seed=0)
    found = resampled_c(curves, CRITERION, 0.01, 3.0, drawn)
    searched = [best_rational(curves.of(places), CRITERION, 0.01, 3.0)["c"] for places in drawn]
    assert found == pytest.approx(searched, rel=1e-3)


def test_published_rules_find_the_published_choice():
    curves = curves_of([0.28, 0.3, 0.33])
    assert best_of(RATIONAL_GRID, curves, CRITERION) == {"form": "rational", "c": 0.3}
    assert best_of(PUBLISHED, curves, CRITERION) == {"form": "rational", "c": 0.3}


def test_empirical_is_linear_by_construction():
    """Also for a curve that no candidate fits: two hills of difficulty."""
    s = np.log(GRID)
    ssim = 1 - 0.5 / (1 + np.exp(-3 * (s + 3))) - 0.45 / (1 + np.exp(-3 * (s - 2)))
    curves = Curves("sigma", ("a",), GRID, ssim[None])
    assert CRITERION.score(curves, empirical(curves))[0] > 0.999
    assert CRITERION.score(curves, best_of(PUBLISHED, curves, CRITERION))[0] < 0.99


def test_empirical_stays_invertible_where_the_mean_rises():
    ssim = np.concatenate([np.linspace(1, 0.02, 28), [0.02, 0.021, 0.0205, 0.02]])
    phi = make(empirical(Curves("sigma", ("a",), GRID, ssim[None])))
    assert phi.inverse(phi.forward(GRID)) == pytest.approx(GRID, rel=1e-6)


def test_candidates_are_the_22_then_erf_edm_twice_and_ddpm():
    curves = curves_of([0.2, 0.4])
    rows = candidate_rows(curves, TIMESTEPS, CRITERION)
    assert [r.group for r in rows] == ["published"] * 22 + ["other"] * 4
    assert [r.name for r in rows[22:]] == ["erf", "edm", "edm-ln", "ddpm"]
    assert len({r.name for r in rows}) == 26
    by_name = {r.name: r for r in rows}
    assert by_name["ddpm"].r2 == pytest.approx([1, 1])
    assert by_name["edm"].axis == "s^(1/7)" and by_name["edm-ln"].axis == "ln s"
    assert not np.allclose(by_name["edm"].r2, by_name["edm-ln"].r2)
    saturating = {r.name: round(r.saturates_at, 2) for r in rows if r.saturates_at}
    assert saturating == {"tanh": 7.25, "sigmoid": 13.82, "erf": 17.29}


def test_held_out_is_scored_by_the_other_half():
    """Images differ in c, so what one half teaches does not suit the other as well as a fit on all."""
    rng = np.random.default_rng(0)
    curves = curves_of(np.exp(rng.normal(np.log(0.3), 1.0, 20)))
    for row in family_rows(curves, CRITERION, 0.01, 3.0, seed=0):
        if row.name in ("rational", "empirical"):
            assert row.held_out.shape == (20,)
            assert row.held_out.mean() < row.r2.mean()
    same = family_rows(curves_of([0.3] * 6), CRITERION, 0.01, 3.0, seed=0)
    assert all(row.held_out == pytest.approx(row.r2, abs=1e-6) for row in same)


def star(select_from="rational"):
    curves = curves_of([0.25, 0.26, 0.27, 0.28])
    families = family_rows(curves, CRITERION, 0.01, 3.0, seed=0)
    return phi_star(families, select_from, CRITERION, images=4, size=64)


def test_phi_star_selects_from_the_family_asked():
    found = star()
    assert found["phi"] == found["families"]["rational"]["phi"] and 0.25 <= found["phi"]["c"] <= 0.28
    assert star("published")["phi"] == {"form": "rational", "c": 0.3}
    assert star("empirical")["phi"]["form"] == "empirical"
    assert set(found["families"]) == {"rational", "published", "argmax", "empirical"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


# ---- the stages


SCHEDULE = {
    **{"images": 5, "size": 32, "seed": 0, "sigmas": 16, "points": 20, "saturation": 1e-6, "bootstrap": 100},
    **{"confidence": 0.95, "select_from": "rational", "c_low": 0.01, "c_high": 3.0},
    "ddpm": {"steps": 1000, "beta_start": 1e-6, "beta_end": 1e-2},
}
NOISE = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}


class Tree:
    """The two blocks that the stages declare, behind the same view as in a run."""

    def __init__(self, **changes):
        self.schedule = parameters.Schedule(**{**SCHEDULE, **changes})
        self.noise = Noise(**NOISE)


def view(**changes):
    return View(Tree(**changes), ("schedule", "noise"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    np.save(folder / "train.npy", coarse.repeat(8, axis=1).repeat(8, axis=2))
    lines = ["id,split,source,sha256,width,height,sketch"]
    lines += [f"f{i},train,f{i}.png,0,64,64," for i in range(8)] + ["t0,test,t0.png,0,64,64,"]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return {"train": folder / "train.npy", "manifest": folder / "manifest.csv"}


def outputs_in(folder):
    names = ("ssim_degradation", "noisy_grid", "r2")
    figures = {f"{n}_{kind}": folder / f"{n}.{kind}" for n in names for kind in ("png", "pdf")}
    return {"phi_star": folder / "phi_star.json", "r2": folder / "r2.csv", **figures}


def run_both(inputs, folder, threads=1, **changes):
    stages.run_curves(view(**changes), inputs, {"curves": folder / "curves.csv"}, Job("c", folder, threads))
    outputs = outputs_in(folder)
    both = {**inputs, "curves": folder / "curves.csv"}
    stages.run_select(
        view(**changes), both, outputs, Job("s", folder, threads, log=spool.Spool(folder / "spool.jsonl"))
    )
    return {"curves": folder / "curves.csv", **outputs}


@pytest.fixture(scope="module")
def made(inputs, tmp_path_factory):
    return run_both(inputs, tmp_path_factory.mktemp("first"))


def test_the_logbook_has_all_digits_of_c(made):
    """Of which four are used: a search that ends beside the edge between two of them can be told from another."""
    events = map(json.loads, (made["curves"].parent / "spool.jsonl").read_text().splitlines())
    tags = next(e["values"] for e in events if e["event"] == "tags")
    used = json.loads(made["phi_star"].read_text())["families"]["rational"]["phi"]["c"]
    assert len(tags["c_unrounded"]) > 10
    assert float(f"{float(tags['c_unrounded']):.4g}") == used


def test_stages_write_the_same_bytes_again(made, inputs, tmp_path):
    again = run_both(inputs, tmp_path, threads=2)
    assert {k for k in made if made[k].read_bytes() != again[k].read_bytes()} == set()


def test_curves_file_is_long_form_and_starts_near_one(made):
    rows = list(csv.DictReader(made["curves"].open()))
    assert list(rows[0]) == ["schedule", "id", "level", "ssim"]
    assert len(rows) == 5 * (16 + 20) and {r["schedule"] for r in rows} == {"sigma", "ddpm"}
    assert all(float(r["ssim"]) > 0.9 for r in rows if r["level"] in ("0.002", "0"))
    assert all(-0.1 < float(r["ssim"]) < 0.1 for r in rows if r["level"] == "80")


def test_table_has_intervals_around_the_means(made):
    rows = list(csv.DictReader(made["r2"].open()))
    assert len(rows) == 22 + 4 + 4
    for row in rows:
        assert float(row["ci_low"]) <= float(row["r2"]) <= float(row["ci_high"])
        assert float(row["difference_low"]) <= float(row["difference"]) <= float(row["difference_high"])
        assert row["n"] == "5"
    published = {r["candidate"]: r["published"] for r in rows if r["published"]}
    assert published == {"ddpm": "0.878000", "edm-ln": "0.895000", "rational-0.3": "0.996500"}
    ranked = sorted((r for r in rows if r["group"] == "published"), key=lambda r: -float(r["r2"]))
    assert ranked[0]["versus"] == ranked[1]["candidate"] and float(ranked[0]["difference"]) >= 0
    assert {r["versus"] for r in ranked[1:]} == {ranked[0]["candidate"]}
    assert all(float(r["held_out"]) <= 1 for r in rows if r["group"] == "family")


def test_the_table_gives_c_with_its_interval_and_no_more_digits(made):
    rows = list(csv.DictReader(made["r2"].open()))
    [row] = [r for r in rows if r["c"]]
    assert row["candidate"] == "rational"
    c, low, high = (float(row[k]) for k in ("c", "c_low", "c_high"))
    assert low < c < high and c == json.loads(made["phi_star"].read_text())["families"]["rational"]["phi"]["c"]
    shown = float(re.fullmatch(r"continuous c: s/\(s\+([\d.]+)\)", row["label"])[1])
    assert row["axis"] == f"s/(s+{shown:g})" and shown == round(c, bootstrap.decimals(c, low, high))


def test_trainings_are_told_of_the_choice_alone(made):
    """Whatever else is in this file retrains every model when it changes."""
    found = json.loads(made["phi_star"].read_text())
    assert set(found) == {
        "phi", "select_from", "families", "images", "size", "points", "sigma_min", "sigma_max", "saturation",
    }  # fmt: skip
    assert set(found["phi"]) == {"form", "c"}
    assert all(set(family) == {"phi", "r2", "held_out"} for family in found["families"].values())


def test_phi_star_file_is_usable_for_training(made):
    found = json.loads(made["phi_star"].read_text())
    assert found["images"] == 5 and found["size"] == 32 and found["select_from"] == "rational"
    assert found["phi"]["form"] == "rational"


@pytest.mark.parametrize(("changes", "key"), [({"images": 9}, "schedule.images"), ({"size": 24}, "schedule.size: 24")])
def test_impossible_parameters_name_the_key(inputs, tmp_path, changes, key):
    with pytest.raises(ParameterError, match=key):
        stages.run_curves(view(**changes), inputs, {"curves": tmp_path / "c.csv"}, Job("c", tmp_path))
    assert not (tmp_path / "c.csv").exists()


HEADER = "schedule,id,level,ssim\n"
BROKEN = {
    "empty": "",
    "no rows": HEADER,
    "no number": HEADER + "sigma,a,x,1\n",
    "one level": HEADER + "sigma,a,1,1\nddpm,a,1,1\n",
    "ragged": HEADER + "sigma,a,1,1\nsigma,a,2,1\nsigma,b,1,1\nsigma,b,3,1\nddpm,a,0,1\nddpm,a,1,0\n",
    "other columns": "a\n1\n",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_curves_file_names_the_stage_to_run(inputs, tmp_path, text):
    (tmp_path / "curves.csv").write_text(text)
    both = {**inputs, "curves": tmp_path / "curves.csv"}
    with pytest.raises(UserError, match="run the stage ssim_curves again"):
        stages.run_select(view(), both, outputs_in(tmp_path), Job("s", tmp_path))


def test_manifest_and_faces_must_agree(inputs, tmp_path):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("id,split\na,train\n")
    with pytest.raises(UserError, match="8 images for 1 ids"):
        stages.run_curves(
            view(),
            {**inputs, "manifest": tmp_path / "manifest.csv"},
            {"curves": tmp_path / "c"},
            Job("c", tmp_path),
        )
