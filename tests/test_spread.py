"""The spread between answers from different noise: on answers whose bias and spread are known, and in print."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssimbad import artifacts
from ssimbad.colorize import chunks
from ssimbad.colorize.chunks import mean_image, stream
from ssimbad.colorize.spread import lines
from ssimbad.methods import registry
from ssimbad.metrics import bootstrap
from ssimbad.metrics.spread import split
from ssimbad.params.base import Sampler
from ssimbad.reporting import spread as table
from ssimbad.runtime.job import Job
from ssimbad.samplers.counts import ODE

from .small import CPU, batch, build, by
from .test_reporting_tables import read

EVALUATION = SimpleNamespace(bootstrap=200, confidence=0.95, seed=0)
HEUN = Sampler(name="heun", steps=5)


def drawn(rng, mean: float, deviation: float, count: int, faces: int = 40) -> list[np.ndarray]:
    """Answers to each face, (faces, 16, 16, 3): normal around the mean, far from the ends of the range."""
    return [np.rint(rng.normal(mean, deviation, (faces, 16, 16, 3))).astype(np.uint8) for _ in range(count)]


@given(count=st.integers(2, 6), seed=st.integers(0, 2**32 - 1))
def test_what_the_mean_of_the_samples_saves_is_their_spread(count, seed):
    """Exactly: the mean over the K samples of |x - y|² less |mean - y|² is (K - 1)/K of the unbiased variance."""
    rng = np.random.default_rng(seed)
    samples = [rng.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8) for _ in range(count)]
    targets = rng.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    error, spread = split(samples, targets)
    of_mean = np.square(np.mean(samples, axis=0) - targets).mean(axis=(1, 2, 3))
    assert error - of_mean == pytest.approx(spread * (count - 1) / count)


@pytest.mark.parametrize("count", [2, 4])
def test_bias_and_spread_are_those_of_the_distribution_however_few_the_samples(count):
    samples = drawn(np.random.default_rng(0), 120, 20, count)
    error, spread = split(samples, np.full((40, 16, 16, 3), 105, np.uint8))
    assert spread.mean() == pytest.approx(20**2, rel=0.03)
    assert (error - spread).mean() == pytest.approx(15**2, rel=0.05)


def test_one_sample_has_no_spread():
    with pytest.raises(ValueError, match="two or more, not 1"):
        split([np.zeros((1, 16, 16, 3), np.uint8)], np.zeros((1, 16, 16, 3), np.uint8))


def test_the_mean_image_is_rounded_once_and_overflows_nowhere():
    samples = [np.full((1, 2, 2, 3), value, np.uint8) for value in (255, 254, 255, 255)]
    assert mean_image(samples).dtype == np.uint8 and (mean_image(samples) == 255).all()
    assert (mean_image([255 - s for s in samples]) == 0).all()


def test_a_ratio_is_of_sums_and_its_interval_of_faces():
    a, b = np.array([1.0, 0.0, 3.0]), np.array([1.0, 1.0, 6.0])
    how = {"resamples": 500, "confidence": 0.95, "seed": 0}
    found = bootstrap.ratio(a, b, **how)
    assert found.value == 0.5 and (found.low, found.high) == (0.0, 1.0) and found.n == 3
    # Of two faces half of the resamples are both of them: the middle of the distribution is the ratio of their sums.
    middle = bootstrap.ratio(np.array([0.0, 9.0]), np.array([1.0, 9.0]), **how | {"confidence": 0.2})
    assert (middle.low, middle.high) == (0.9, 0.9)
    assert bootstrap.ratio(b, b, **how) == bootstrap.Estimate(1.0, 1.0, 1.0, 3)
    assert bootstrap.ratio(a, np.array([1.0, 0.0, 1.0]), **how).low is None
    for bad in (np.zeros(3), np.ones(2), np.array([1.0, np.nan, 1.0])):
        with pytest.raises(ValueError, match="ratio"):
            bootstrap.ratio(a, bad, **how)


def found(one_step, samples, targets) -> dict[tuple[str, str], dict]:
    return {(x["answer"], x["metric"]): x for x in lines(one_step, samples, targets, HEUN, ODE, EVALUATION)}


def test_a_sampler_of_the_true_distribution_has_a_share_of_one_half():
    """The face is one more draw; so the mean of very many answers would score 3 dB more than one."""
    rng = np.random.default_rng(1)
    samples, [targets] = drawn(rng, 128, 25, 4), drawn(rng, 128, 25, 1)
    got = found(samples[0], samples, targets)
    share, bias = got["spread", "share"], got["bias", "psnr"]
    assert share["ci_low"] < 0.5 < share["ci_high"] and share["value"] == pytest.approx(0.5, abs=0.02)
    gain = bias["value"] - got["sample", "psnr"]["value"]
    assert gain == pytest.approx(10 * np.log10(2), abs=0.2)
    # error of a mean of 4: the bias and a quarter of the spread
    assert got["mean", "psnr"]["value"] == pytest.approx(bias["value"] - 10 * np.log10(1.25), abs=0.1)


def test_a_row_that_always_gives_one_answer_has_no_spread():
    rng = np.random.default_rng(2)
    [answer], [targets] = drawn(rng, 120, 20, 1), drawn(rng, 120, 20, 1)
    got = found(answer, [answer] * 3, targets)
    assert got["spread", "share"]["value"] == 0.0
    scores = {got[answer, "psnr"]["value"] for answer in ("one_step", "sample", "mean")}
    assert len(scores) == 1 and got["bias", "psnr"]["value"] == pytest.approx(*scores, abs=1e-4)


def test_network_calls_are_those_of_each_answer():
    rng = np.random.default_rng(3)
    samples, [targets] = drawn(rng, 128, 20, 4, faces=2), drawn(rng, 100, 20, 1, faces=2)
    got = found(samples[0], samples, targets)
    assert {a: (got[a, "psnr"]["steps"], got[a, "psnr"]["nfe"]) for a in ("one_step", "sample", "mean")} == {
        "one_step": (1, 1), "sample": (5, 9), "mean": (5, 36),
    }  # fmt: skip
    assert got.keys() == {
        *((a, m) for a in ("one_step", "sample", "mean") for m in ("psnr", "ms_ssim")),
        ("bias", "psnr"), ("spread", "share"),
    }  # fmt: skip


def test_a_bias_that_cannot_be_told_from_zero_is_a_dash_with_its_reason(tmp_path):
    rng = np.random.default_rng(4)
    samples = drawn(rng, 128, 20, 2, faces=3)
    targets = mean_image(samples)
    got = lines(samples[0], samples, targets, HEUN, ODE, EVALUATION)
    assert next(x for x in got if x["answer"] == "bias").get("value") is None
    text = printed(tmp_path, {("edm", "finetune", 0): got})["spread_md"].read_text()
    assert "| — (a) |" in text and "- (a) for 3 of 3 faces" in text


def test_perfect_answers_have_no_error_to_share():
    targets = np.full((2, 16, 16, 3), 9, np.uint8)
    share = found(targets, [targets, targets], targets)["spread", "share"]
    assert share.get("value") is None and "no squared error" in share["reason"]


def test_the_first_sample_starts_from_the_noise_of_the_rows_own_images_and_the_others_do_not():
    assert stream(7, 0) == 7
    starts = [chunks.noise(stream(7, k), ["a", "b"], lambda x: x)(3, 2, 2) for k in range(4)]
    assert len({tuple(row.flatten().tolist()) for start in starts for row in start}) == 8
    again = chunks.noise(stream(7, 3), ["b"], lambda x: x)(3, 2, 2)
    assert (again[0] == starts[3][1]).all(), "whatever its company"


def coloured(colour, watch=None, seed: int = 7, kind: str = "ssimbad") -> np.ndarray:
    """Four faces by an untrained model of a kind, in chunks of three."""
    given, model = batch(), build(kind).eval()
    return chunks.colour(
        chunks.bound(registry.get(kind), model), {"sketch": given.sketch, "reference": given.reference},
        ["a", "b", "c", "d"], colour,
        chunk=3, seed=seed, device=CPU, precision="fp32", channels_last=False, watch=watch,
    )  # fmt: skip


@pytest.mark.parametrize("how", [by("heun", 2), by("ddim", 3, eta=1.0)], ids=lambda how: how.sampler.name)
def test_the_mean_of_samples_is_the_mean_image_of_single_ones_from_their_streams(how):
    singles = [coloured(how, seed=stream(7, k)) for k in range(4)]
    assert len({single.tobytes() for single in singles}) == 4
    together = coloured(how.model_copy(update={"samples": 4}))
    assert together.dtype == np.uint8 and np.array_equal(together, mean_image(singles))
    assert np.array_equal(coloured(how.model_copy(update={"samples": 1})), singles[0])


def test_whoever_watches_the_samples_is_told_of_all_their_calls_and_changes_no_bit():
    how, told = by("heun", 2).model_copy(update={"samples": 4}), []
    watched = coloured(how, watch=lambda sigma, image: told.append((sigma, len(image))))
    assert np.array_equal(watched, coloured(how))
    assert registry.nfe("ssimbad", how) == 4 * 3
    # Two chunks, the second of them padded, on one core: each sees all calls of its four samples.
    assert len(told) == 2 * registry.nfe("ssimbad", how) and {images for _, images in told} == {3}


def printed(folder: Path, by_row: dict[tuple[str, str, int], list[dict]]) -> dict[str, Path]:
    """The table of lines by method, stage and seed, through the files that the stage spread writes."""
    from ssimbad.colorize.spread import COLUMNS

    values = [folder / f"{method}/{stage}/seed-{seed}.csv" for method, stage, seed in by_row]
    for path, got in zip(values, by_row.values(), strict=True):
        artifacts.write_csv(path, COLUMNS, got)
    params = SimpleNamespace(
        preset="demo", data=SimpleNamespace(size=64), evaluation=EVALUATION,
        methods={"edm": SimpleNamespace(label="EDM"), "ssimbad": SimpleNamespace(label="SSIMBaD")},
    )  # fmt: skip
    outputs = {f"spread{s}": folder / f"spread.{e}" for s, e in (("", "csv"), ("_md", "md"), ("_tex", "tex"))}
    table.run(params, {"values": values}, outputs, Job("spread_table", folder))
    return outputs


def line(answer: str, metric: str, value: float) -> dict:
    ends = {"value": value, "ci_low": value - 0.01, "ci_high": value + 0.01}
    about = {"n": 64, "samples": 4, "sampler": "ddim, eta 1", "steps": 8, "nfe": 8}
    return {"answer": answer, "metric": metric} | ends | about


def row(level: float) -> list[dict]:
    scores = {"one_step": 2.0, "sample": 0.0, "mean": 1.3, "bias": 1.9}
    return [
        *(line(answer, "psnr", level + more) for answer, more in scores.items()),
        *(line(answer, "ms_ssim", level / 30) for answer in list(scores)[:3]),
        line("spread", "share", level / 50) | {"nfe": None},
    ]


def test_the_table_in_print(tmp_path):
    outputs = printed(tmp_path, {("edm", "pretrain", 0): row(16.0), ("edm", "finetune", 0): row(18.0)})
    text = outputs["spread_md"].read_text()
    assert "| Method | Sampler | One step | One sample | Mean of 4 | Mean of ∞ | Spread / error |" in text
    assert (
        "| EDM, pretrained | ddim, eta 1, 8 steps | 18.00 [17.99, 18.01] | 16.00 [15.99, 16.01]"
        " | 17.30 [17.29, 17.31] | 17.90 [17.89, 17.91] | 32.0 % [31.0, 33.0] |"
    ) in text
    assert "| EDM, finetuned | ddim, eta 1, 8 steps | 0.6000 [" in text.split("## MS-SSIM")[1]
    assert text.count("demo-scale, not comparable") == 2
    assert "no image that the model makes" in text and "bootstrap interval over test faces" in text
    assert text.count("One seed: an interval over test faces holds for these very weights") == 2
    assert r"32.0 \% [31.0, 33.0]" in outputs["spread_tex"].read_text()
    assert len(read(outputs["spread"])) == 2 * 8
    assert {x["nfe"] for x in read(outputs["spread"])} == {"8", ""}
    assert list(read(outputs["spread"])[0]) == table.COLUMNS


def test_with_several_seeds_the_interval_is_over_them(tmp_path):
    rows = {("ssimbad", "finetune", seed): row(18.0 + seed) for seed in range(3)}
    outputs = printed(tmp_path, rows)
    text = outputs["spread_md"].read_text()
    assert "| 19.00 [16.52, 21.48] |" in text and "38.0 % [33.0, 43.0]" in text
    assert "Student t interval over seeds" in text and "One seed" not in text
    assert {x["seed"] for x in read(outputs["spread"])} == {"0", "1", "2"}
