"""The reverse process of a DDPM given nothing, looked at: samples, ways, faces brought back, what passes for noise."""

from __future__ import annotations

import csv
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from ssimbad import artifacts
from ssimbad.colorize import load as loading
from ssimbad.colorize import reverse
from ssimbad.networks.denoiser import NoisePredictor
from ssimbad.noise import ddpm
from ssimbad.planning import flops, report

from .conftest import lived_in, miniature, preset_tree
from .test_params import complaint
from .toy import load


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """The stages that lead to the figures, in one process."""
    needed = ["raw", "faces", "pretrain", "reverse", "reverse_figures"]
    with lived_in(tmp_path_factory.mktemp("reverse"), miniature("demo-ddpm"), only=needed) as folder:
        yield folder


@pytest.fixture(scope="module")
def pictures(house):
    return artifacts.read_png_zip(house / "reports/reverse/ddpm-faces/pretrain/seed-0.zip")


@pytest.fixture(scope="module")
def values(house):
    with (house / "reports/reverse/ddpm-faces/pretrain/seed-0.csv").open(newline="") as file:
        return {tuple(x[k] for k in ("what", "t", "chain", "variance", "metric")): x for x in csv.DictReader(file)}


def test_every_picture_is_there(pictures):
    counted: dict[str, int] = {}
    for name in pictures:
        counted[name.rpartition("-")[0]] = counted.get(name.rpartition("-")[0], 0) + 1
    signs = ("beta", "posterior")
    assert counted == {
        **{f"samples-{v}": 5 for v in signs},
        **{f"trajectories-{v}-{k}": 3 for v in signs for k in (0, 1)},
        **{"original": 2, "noisy-100": 2, "noisy-1000": 2},
        **{f"{c}-{t}-{v}": 2 for c in ("whole", "matched") for t in (100, 1000) for v in signs},
    }


def test_progress_counts_every_image_that_the_network_sees(house):
    p, ids = load(yaml.safe_load((house / "params.yaml").read_text())), ["a", "b"]
    weights = house / "models/ddpm-faces/pretrain/seed-0.safetensors"
    model, seen = loading.trained(weights, torch.device("cpu"), True).model, []
    lab = reverse.Lab(model, torch.device("cpu"), 1, p, seen.append)
    model.network.register_forward_hook(lambda module, given, made: asked.append(len(made)))
    asked, faces = [], np.zeros((2, p.data.size, p.data.size, 3), dtype=np.uint8)
    for parts in (reverse.drawn(lab), reverse.watched(lab), reverse.recovered(lab, ids, faces, [])):
        assert list(parts)
    assert sum(seen) == sum(asked) == lab.seen(2)


def test_a_way_leads_from_noise_to_the_sample(pictures):
    """Both by the same steps and the same noise, whatever the company in a batch: but for the last bit of a byte."""
    for variance in ("beta", "posterior"):
        for k in (0, 1):
            first, last = (pictures[f"trajectories-{variance}-{k}-000{i}"].astype(int) for i in (0, 2))
            assert np.abs(last - pictures[f"samples-{variance}-000{k}"]).max() <= 1
            assert (first == pictures[f"trajectories-beta-{k}-0000"]).all(), "both begin from the same noise"
            assert np.abs(first - last).mean() > 10
    assert (pictures["samples-beta-0000"] != pictures["samples-posterior-0000"]).any()


def test_from_the_last_timestep_both_ways_back_are_one(pictures):
    for variance in ("beta", "posterior"):
        whole, matched = (pictures[f"{chain}-1000-{variance}-0001"] for chain in ("whole", "matched"))
        assert (whole == matched).all()
        assert (pictures[f"whole-100-{variance}-0001"] != pictures[f"matched-100-{variance}-0001"]).any()


def test_noisy_faces_have_the_noise_of_their_timestep(pictures):
    """sqrt(alpha_bar) is 0.947 at t = 100 and 0.006 at t = 1000."""
    bars = ddpm.alpha_bar(1000, 1e-4, 2e-2).sqrt()
    assert bars[99].item() == pytest.approx(0.947, abs=1e-3) and bars[999].item() < 0.007
    likeness = {
        t: np.corrcoef(pictures[f"noisy-{t}-0000"].ravel(), pictures["original-0000"].ravel())[0, 1]
        for t in (100, 1000)
    }
    assert likeness[100] > 0.5 and abs(likeness[1000]) < 0.2


def test_the_numbers_are_those_of_the_pictures(pictures, values):
    def psnr(image, target):
        return 10 * np.log10(255**2 / np.square(image.astype(float) - target).mean())

    for name, key in (
        ("noisy-100", ("noisy", "100", "", "")),
        ("whole-100-beta", ("recovered", "100", "whole", "beta")),
    ):
        pairs = [(pictures[f"{name}-000{k}"], pictures[f"original-000{k}"]) for k in (0, 1)]
        assert float(values[*key, "psnr"]["value"]) == pytest.approx(np.mean([psnr(*p) for p in pairs]), abs=1e-4)
        contrast = np.mean([image.astype(float).std() / 255 for image, _ in pairs])
        assert float(values[*key, "contrast"]["value"]) == pytest.approx(contrast, abs=1e-4)
    shares = {key[1:3] for key in values if key[0] == "noise"}
    assert shares == {(t, chain) for t in ("1", "100", "1000") for chain in ("whole", "matched")}
    assert (
        values["noise", "1000", "whole", "", "coefficient"]["value"]
        == (values["noise", "1000", "matched", "", "coefficient"]["value"])
    )


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_what_a_network_takes_for_noise_is_told_by_its_coefficient(prediction):
    """Of one that says a share of its input, which depends on the timestep alone."""
    asked = []

    def network(x, t):
        asked.append(t[0].item())
        return (0.25 if t[0] < 500 else 0.9) * x

    model = NoisePredictor(network, ddpm.sigma(1000, 1e-4, 2e-2), shape=(3, 8, 8), prediction=prediction)
    view = SimpleNamespace(
        report=SimpleNamespace(reverse=SimpleNamespace(start=[0.1])),
        colorize=SimpleNamespace(seed=0),
        evaluation=SimpleNamespace(bootstrap=100, confidence=0.95, seed=0),
    )
    lab = reverse.Lab(model, torch.device("cpu"), 1, view)
    faces = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    lines = reverse.taken_for_noise(lab, ["a", "b", "c"], faces)
    found = {(x["t"], x["chain"]): x["value"] for x in lines}
    assert asked == [999, 0, 999, 99]
    for t, chain, asked_at, share in ((1, "whole", 999, 0.9), (1, "matched", 0, 0.25), (100, "matched", 99, 0.25)):
        alpha_bar = float(ddpm.alpha_bar(1000, 1e-4, 2e-2)[asked_at])
        sine, cosine = (1 - alpha_bar) ** 0.5, alpha_bar**0.5
        eps = share if prediction == "noise" else cosine * share + sine  # v = cos·eps - sin·y, x_t = cos·y + sin·eps
        assert found[t, chain] == pytest.approx(sine * eps, abs=1e-4), "of the noise at its size within x_t"


def test_figures_and_table_are_drawn(house):
    drawn = {path.name for path in (house / "reports/figures").glob("reverse_*.png")}
    assert drawn == {
        *(f"reverse_{what}_{v}.png" for what in ("samples", "trajectories") for v in ("beta", "posterior")),
        *(f"reverse_recover_{chain}.png" for chain in ("whole", "matched")),
    }
    text = (house / "reports/tables/reverse.md").read_text()
    assert len(re.findall(r"\| (?:100|1000) \| from", text)) == 8
    assert "taken for noise" in text and "demo-scale" not in text, "the miniature is no demo"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": "ddpm-face/pretrain"}, "report.reverse.weights: ddpm-face/pretrain is no training"),
        ({"weights": "edm/pretrain"}, "report.reverse.weights: kind edm does not sample by `ancestral` from nothing"),
        ({"trajectories": 6}, "report.reverse: trajectories: 6 of 5 samples"),
        ({"snapshots": 6}, "report.reverse: snapshots: 6, but 4 steps pass 5 pictures"),
        ({"start": [0.0]}, "report.reverse.start.0"),
        ({"start": []}, "report.reverse.start"),
    ],
)
def test_mistakes_end_in_one_line(change, said):
    tree = miniature("demo-ddpm")
    tree["methods"]["edm"] = miniature("demo-all")["methods"]["edm"]
    assert load(tree)
    tree["report"]["reverse"] |= change
    assert said in complaint(tree)


def test_its_work_is_planned():
    """Samples and watched ones by either variance; faces from the last timestep, and by fewer steps from their own."""
    p, lacking = load(miniature("demo-ddpm")), []
    work = {("ddpm-faces", "pretrain"): flops.training(p, "ddpm-faces", "pretrain")}
    reference = report.Reference(1, 1, 1)
    found = {t.stage.partition("reverse, ")[2]: t for t in report.tasks(p, work, reference, lacking)}
    assert not lacking
    assert {what: (t.runs, t.images, t.calls) for what, t in found.items() if what} == {
        "samples": (2, 7, 4),
        "faces back from the last timestep": (4, 2, 4),
        "faces back from 0.1 T": (2, 2, 1),
        "faces back from 1 T": (2, 2, 4),
    }
    assert found["samples"].operations == 4 * found["faces back from 0.1 T"].operations > 0


def test_its_training_is_that_of_the_rows():
    """So that whoever has made the one need not make the other."""
    own, rows = (preset_tree(name)["methods"]["ddpm-faces"] for name in ("demo-ddpm", "demo-all"))
    assert own | {"label": ""} == rows | {"label": ""}
