"""The ladder and the figure of network calls from invented numbers."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.methods import registry
from ssimbad.reporting import ladder, nfe
from ssimbad.runtime.job import Job

from .test_reporting_tables import PSNR, read, write_result

RUNGS = {"edm": 15.0, "edm-density": 15.4, "ssimbad": 16.0}


@pytest.fixture
def climbed(tmp_path, monkeypatch):
    for name, level in RUNGS.items():
        monkeypatch.setitem(PSNR, (name, "pretrain"), level)
    monkeypatch.delitem(PSNR, ("control_50%", "finetune"))
    phi = {"form": "rational", "c": 0.3}
    blocks = {
        "edm": ("edm", {"phi": phi}),
        "edm-density": ("edm", {"phi": phi, "sigma_density": "phi"}),
        "ssimbad": ("ssimbad", {"phi": phi}),
    }
    methods = {
        name: SimpleNamespace(
            label=name.upper(),
            config=registry.get(kind).Config.model_validate(config),
            pretrain=SimpleNamespace(images=3584),
        )
        for name, (kind, config) in blocks.items()
    }
    params = SimpleNamespace(
        preset="demo-ladder",
        methods=methods,
        report=SimpleNamespace(ladder=list(RUNGS)),
        evaluation=SimpleNamespace(bootstrap=200, confidence=0.95, seed=0),
    )
    pairs = [
        write_result(tmp_path, name, "pretrain", seed, s)
        for name in RUNGS
        for seed in (0, 1, 2)
        for s in ("same", "cross")
    ]
    inputs = {"summaries": [a for a, _ in pairs], "images": [b for _, b in pairs]}
    outputs = {"ladder" + s: tmp_path / f"ladder{e}" for s, e in (("", ".csv"), ("_md", ".md"), ("_tex", ".tex"))}
    ladder.run(params, inputs, outputs, Job("ladder", tmp_path))
    return outputs


def test_rungs_have_means_over_seeds_and_paired_differences(climbed):
    lines = read(climbed["ladder"])
    assert [x["method"] for x in lines if (x["setting"], x["metric"]) == ("same", "psnr")] == list(RUNGS)
    last = next(x for x in lines if (x["method"], x["setting"], x["metric"]) == ("ssimbad", "same", "psnr"))
    assert float(last["value"]) == pytest.approx(17.0)  # the seeds score 16, 17, 18
    assert float(last["ci_high"]) - float(last["value"]) == pytest.approx(4.302653 / 3**0.5, abs=1e-4)
    assert (last["seeds"], last["n"]) == ("3", "20")
    assert [float(last[f"previous_{k}"]) for k in ("difference", "low", "high")] == pytest.approx([0.6] * 3)
    assert float(last["first_difference"]) == pytest.approx(1.0)


def test_columns_are_the_options_that_differ(climbed):
    lines = read(climbed["ladder"])
    switches = list(lines[0])[-4:]
    assert switches == ["sigma_density", "sampling_grid", "c_noise", "loss_weight"]
    middle = next(x for x in lines if x["method"] == "edm-density")
    assert [middle[s] for s in switches] == ["phi", "rho", "log", "edm"]


def test_ladder_in_print_tells_its_terms(climbed):
    text = climbed["ladder_md"].read_text()
    assert text.count("## Ladder") == 2
    assert "demo-scale" in text and "3,584 images seen, 3 seeds" in text
    assert "| EDM | log_normal | rho | log | edm | 16.00 [13.52, 18.48] | — | — |" in text
    assert "| +0.60 [+0.60, +0.60] | +1.00 [+1.00, +1.00] |" in text
    assert r"log\_normal" in climbed["ladder_tex"].read_text()


HEAD = "sampler,calls,steps,nfe,metric,value,ci_low,ci_high,n\n"


def drawn(folder: Path, values: list[Path]) -> dict[str, Path]:
    outputs = {f"nfe_{e}": folder / f"nfe.{e}" for e in ("png", "pdf", "md", "tex")} | {"nfe": folder / "nfe.csv"}
    params = SimpleNamespace(
        preset="demo-all", data=SimpleNamespace(size=64), methods={"edm": SimpleNamespace(label="EDM, vanilla")}
    )
    nfe.run(params, {"values": values}, outputs, Job("nfe_figure", folder))
    return outputs


def test_quality_against_calls_is_averaged_over_seeds(tmp_path):
    for seed, psnr in ((0, 10.0), (1, 12.0)):
        rows = [
            f"heun,{2 * steps},{steps},{2 * steps - 1},{metric},{value},,,32\n"
            for steps in (1, 2)
            for metric, value in (("psnr", psnr + steps), ("ms_ssim", 0.5))
        ]
        artifacts.write_text(tmp_path / f"edm/finetune/seed-{seed}.csv", HEAD + "".join(rows))
    outputs = drawn(tmp_path, sorted(tmp_path.glob("edm/finetune/*.csv")))
    assert len(read(outputs["nfe"])) == 8
    text = outputs["nfe_md"].read_text()
    assert "| EDM, vanilla | heun | 12.00 | 13.00 |" in text
    assert "≤ 2 | ≤ 4" in text and "demo-scale" in text
    assert outputs["nfe_png"].stat().st_size > 5000


def test_values_named_otherwise_are_refused(tmp_path):
    artifacts.write_text(tmp_path / "values.csv", HEAD)
    with pytest.raises(UserError, match="name it so"):
        drawn(tmp_path, [tmp_path / "values.csv"])
