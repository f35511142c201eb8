"""Tables from invented summaries: published beside reproduced, dashes with reasons, seeds, pairs, LaTeX."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.metrics.ms_ssim import scales
from ssimbad.reporting import comparisons, main_table, r2_table, results, tables
from ssimbad.reporting.markup import Footnotes, Table, escape, latex, markdown
from ssimbad.reporting.published import published
from ssimbad.runtime.job import Job

from .small import by

IDS = [f"{i:03d}" for i in range(20)]
OFF = {"value": None, "ci_low": None, "ci_high": None, "n": 20, "reason": "switched off"}
PSNR = {("ssimbad", "pretrain"): 15.0, ("ssimbad", "finetune"): 18.5, ("control_50%", "finetune"): 16.0}
R2 = """\
candidate,group,label,axis,r2,ci_low,ci_high,versus,difference,difference_low,difference_high,held_out,saturates_at,published,n,c,c_low,c_high
rational-0.3,published,s/(s+0.3),s/(s+0.3),0.98765,0.98,0.99,log,0.1,0.05,0.15,,,0.9965,40,,,
log,published,ln s,ln s,0.88765,0.88,0.89,rational-0.3,-0.1,-0.15,-0.05,,,,40,,,
erf,other,erf(s/5),erf(s/5),0.5,0.4,0.6,rational-0.3,-0.4877,-0.5,-0.4,,17.3,,40,,,
rational,family,continuous c: s/(s+0.184),s/(s+0.184),0.99,0.98,1.0,rational-0.3,0.00235,0.001,0.003,0.989,,,40,0.1837,0.1712,0.1995
"""  # noqa: E501
SETTINGS = {"same": 0.0, "cross": -2.0, "cross-true": -1.0, "cross-other": -4.0}


def params(preset: str = "demo") -> SimpleNamespace:
    colour = {stage: by("ddim", 8, eta=1.0) for stage in ("pretrain", "finetune")}
    labels = {"ssimbad": "SSIMBaD", "control_50%": "Control_50%"}
    names = {name: SimpleNamespace(label=label, weights=None, colour=colour) for name, label in labels.items()}
    evaluation = SimpleNamespace(bootstrap=200, confidence=0.95, seed=0)
    schedule = SimpleNamespace(confidence=0.9)
    return SimpleNamespace(preset=preset, evaluation=evaluation, schedule=schedule, methods=names)


def entry(value: float, **more) -> dict:
    return {"value": value, "ci_low": value - 0.5, "ci_high": value + 0.5, "n": 20} | more


def write_result(folder: Path, method: str, stage: str, seed: int, setting: str, size: int = 64) -> tuple[Path, Path]:
    level = PSNR[method, stage] + SETTINGS[setting] + seed
    faces = np.random.default_rng(0).normal(size=len(IDS))  # how hard each face is: the same for all methods
    values = level + faces - faces.mean()
    base = folder / method / stage / f"seed-{seed}" / setting
    lines = ["id,psnr,ms_ssim", *(f"{i},{v},{v / 30}" for i, v in zip(IDS, values, strict=True))]
    artifacts.write_text(base.with_suffix(".csv"), "\n".join(lines) + "\n")
    metrics = {"psnr": entry(level), "ms_ssim": entry(level / 30, scales=scales(size)), "lpips": OFF}
    if setting in ("same", "cross"):
        metrics |= {"fid": OFF, "kid": OFF}
    about = {"method": method, "stage": stage, "seed": seed, "setting": setting, "n": 20, "size": size}
    artifacts.write_json(base.with_suffix(".json"), about | {"metrics": metrics})
    return base.with_suffix(".json"), base.with_suffix(".csv")


def write_made(folder: Path, method: str, stage: str, seed: int, **more) -> Path:
    train = {"start": None if stage == "pretrain" else "ssimbad/pretrain"}
    about = {"method": method, "stage": stage, "seed": seed, "train": train, "images": 512, "remarks": []}
    artifacts.write_json(folder / f"made/{method}-{stage}-{seed}.json", about | more)
    return folder / f"made/{method}-{stage}-{seed}.json"


def made(folder: Path, seeds: tuple[int, ...] = (0,), settings: dict = SETTINGS, **more) -> dict:
    pairs = [write_result(folder, *row, seed, s, **more) for row in PSNR for seed in seeds for s in settings]
    block = {"psnr": entry(13.4), "ms_ssim": entry(0.5, scales=3), "lpips": OFF, "fid": OFF, "kid": OFF}
    rows = {name: {s: block for s in ("same", "cross", "cross-true")} for name in main_table.BASELINES}
    artifacts.write_json(folder / "baselines.json", {"n": 20, "size": 64, "rows": rows})
    artifacts.write_text(folder / "r2.csv", R2)
    how = [write_made(folder, *row, seed) for row in PSNR for seed in seeds]
    return {
        "made": how,
        "summaries": [a for a, _ in pairs],
        "images": [b for _, b in pairs],
        "baselines": folder / "baselines.json",
        "r2": folder / "r2.csv",
    }


def run(tmp_path: Path, preset: str = "demo", change=lambda inputs: None, **kwargs) -> dict[str, Path]:
    out = tmp_path / "tables"
    outputs = {
        name + suffix: out / f"{name}.{ending}"
        for name in ("main", "r2", "reference_use", "differences")
        for suffix, ending in (("", "csv"), ("_md", "md"), ("_tex", "tex"))
        if (name, suffix) != ("r2", "")
    }
    inputs = made(tmp_path, **kwargs)
    change(inputs)
    tables.run(params(preset), inputs, outputs, Job("tables", tmp_path))
    return outputs


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_main_csv_is_the_long_form_of_the_summaries(tmp_path):
    lines = read(run(tmp_path)["main"])
    assert ",".join(lines[0]) == "method,stage,setting,seed,metric,value,ci_low,ci_high,n,published"
    assert len(lines) == 3 * (5 + 5 + 3)  # cross-true has no FID and KID; cross-other is in reference_use
    found = {(x["method"], x["stage"], x["setting"], x["metric"]): x for x in lines}
    line = found["ssimbad", "finetune", "cross", "psnr"]
    assert [float(line[k]) for k in ("value", "ci_low", "ci_high", "n")] == [16.5, 16.0, 17.0, 20]
    assert line["published"] == "15.84" and line["seed"] == "0"
    assert found["ssimbad", "finetune", "same", "fid"]["value"] == ""
    assert found["ssimbad", "finetune", "same", "fid"]["published"] == "34.98"
    assert found["ssimbad", "finetune", "cross-true", "psnr"]["published"] == ""


def test_published_values_are_those_of_the_readme():
    assert published("scft", "pretrain", "same", "psnr") == 17.17
    assert published("animediffusion", "finetune", "cross", "fid") == 139.13
    assert published("animediffusion", "pretrain", "cross", "ms_ssim") == 0.6721
    assert published("ssimbad", "pretrain", "cross", "psnr") == 13.04
    for unknown in (("edm", "pretrain", "same", "psnr"), ("ssimbad", "finetune", "cross-true", "psnr")):
        assert published(*unknown) is None
    assert published("ssimbad", "finetune", "same", "lpips") is None


def section(text: str, title: str) -> list[str]:
    return next(part for part in text.split("## ") if part.startswith(title)).splitlines()


def test_main_md_shows_published_beside_reproduced(tmp_path):
    text = run(tmp_path)["main_md"].read_text()
    lines = section(text, "Main table, same reference")
    row = next(i for i, line in enumerate(lines) if "SSIMBaD, finetuned" in line)
    assert "18.50 [18.00, 19.00]" in lines[row] and "0.6167" in lines[row]
    assert "| published | 18.92 | 0.8512 | 34.98 | — | — |" in lines[row + 1]
    control = next(line for line in lines if "Control_50%" in line)
    assert "published" not in lines[lines.index(control) + 1]
    rule = next(i for i, line in enumerate(lines) if "Without any method" in line)
    assert lines.index(control) < rule
    assert "Warped reference itself" in lines[rule + 1] and "13.40" in lines[rule + 1]


PAPER = {"preset": "paper", "settings": {"same": 0.0, "cross": -2.0}, "size": 256}


def test_a_difference_to_published_numbers_is_formed_at_their_scale(tmp_path):
    text = run(tmp_path, **PAPER)["main_md"].read_text()
    assert "| published | 18.92 | 0.8512 | 34.98 | — | — |" in text
    assert "| difference | −0.42 | −0.2345 | — | — | — |" in text
    assert "No difference is formed" not in text


@pytest.mark.parametrize(
    "change",
    [
        {"preset": "demo"},
        {"preset": "demo-all"},
        {"size": 64},
        {"size": 192},  # five scales, yet other pixels
        {"size": 512},
        {"settings": SETTINGS},  # with true answers: embedded faces
    ],
    ids=str,
)
def test_no_difference_to_numbers_of_other_images(tmp_path, change):
    text = run(tmp_path, **PAPER | change)["main_md"].read_text()
    assert "published | 18.92" in text and "| difference |" not in text
    assert "No difference is formed: it would be one of images" in text


def test_the_difference_in_fid_needs_as_many_faces(tmp_path):
    def with_fid(inputs):
        for path in inputs["summaries"]:
            summary = json.loads(path.read_text())
            summary["n"], summary["metrics"]["fid"] = (
                count,
                {"value": 40.0, "ci_low": None, "ci_high": None, "n": count},
            )
            artifacts.write_json(path, summary)

    for count, shown in ((579, "+5.02"), (578, "—")):
        text = run(tmp_path / str(count), change=with_fid, **PAPER)["main_md"].read_text()
        assert f"| difference | −0.42 | −0.2345 | {shown} | — | — |" in text


def test_a_dash_has_its_reason_and_ms_ssim_its_scales(tmp_path):
    lines = section(run(tmp_path)["main_md"].read_text(), "Main table, same reference")
    assert "MS-SSIM (3 scales) ↑" in lines[2] and "FID (n = 20) ↓" in lines[2]
    assert any("— (b)" in line for line in lines)
    assert "- (b) switched off" in lines
    assert any("first 3 scales" in line for line in lines)


def test_a_row_that_lacks_a_metric_has_a_dash_and_no_error(tmp_path):
    """As an unconditional row lacks all that is measured in pairs: here the first row of the table."""

    def unpaired(inputs):
        for path in inputs["summaries"]:
            summary = json.loads(path.read_text())
            if (summary["method"], summary["stage"]) == ("ssimbad", "pretrain"):
                del summary["metrics"]["psnr"], summary["metrics"]["ms_ssim"]
                artifacts.write_json(path, summary)
                values = path.with_suffix(".csv")
                pd.read_csv(values, dtype={"id": str})[["id"]].to_csv(values, index=False)

    outputs = run(tmp_path, change=unpaired)
    lines = section(outputs["main_md"].read_text(), "Main table, same reference")
    first = next(line for line in lines if line.startswith("| SSIMBaD, pretrained"))
    assert re.match(r"\| SSIMBaD, pretrained \(a\) \| reproduced \| — \(b\) \| — \(b\) \|", first)
    assert any(line.startswith("- (b) not measured for this row") for line in lines)
    assert "MS-SSIM (3 scales) ↑" in lines[2] and any("first 3 scales" in line for line in lines)
    assert len(read(outputs["differences"])) == 3 * 1 * 2  # of the other two rows


def test_metrics_stand_in_the_order_of_the_registry_with_their_notes(tmp_path):
    def more(inputs):
        for path in inputs["summaries"]:
            summary = json.loads(path.read_text())
            summary["metrics"] |= {"line_fidelity": entry(0.6), "pixel_mmd": entry(0.01) | {"ci_low": None}}
            artifacts.write_json(path, summary)

    lines = section(run(tmp_path, change=more)["main_md"].read_text(), "Main table, same reference")
    order = [lines[2].index(name) for name in ("PSNR", "FID", "LPIPS", "Line fidelity ↑", "Pixel MMD (n = 20) ↓")]
    assert order == sorted(order)
    assert any(line.startswith("- Line fidelity: ink of the answer") for line in lines)
    assert any("it is no KID" in line for line in lines)
    assert any(line.startswith("| Warped reference itself") and "— (c) | — (c)" in line for line in lines)


def test_the_right_answers_stand_below_the_rule_where_they_were_measured(tmp_path):
    def truth(inputs):
        found = json.loads(inputs["baselines"].read_text())
        del found["rows"]["true_answer"]["same"], found["rows"]["ground_truth"]["cross-true"]
        artifacts.write_json(inputs["baselines"], found)

    text = run(tmp_path, change=truth)["main_md"].read_text()
    shown = [
        [name in "\n".join(section(text, f"Main table, {s}")) for name in main_table.BASELINES.values()]
        for s in ("same reference", "cross reference against the sketch", "cross reference against the true")
    ]
    assert shown == [[True, True, True, False], [True] * 4, [True, True, False, True]]


def test_demo_scale_is_in_every_title_and_only_there(tmp_path):
    demo, paper = run(tmp_path / "demo"), run(tmp_path / "paper", preset="paper")
    for name in ("main_md", "r2_md", "reference_use_md", "differences_md"):
        titles = [line for line in demo[name].read_text().splitlines() if line.startswith("## ")]
        assert titles and all("demo-scale" in title for title in titles)
        assert "demo-scale" not in paper[name].read_text()
    assert "64×64 pixels, 20 test faces" in paper["main_md"].read_text()


def test_embedded_data_is_said_where_there_is_a_true_answer(tmp_path):
    assert "Embedded data" in run(tmp_path / "a")["main_md"].read_text()
    own = run(tmp_path / "b", settings={"same": 0.0, "cross": 0.0})
    assert "Embedded data" not in own["main_md"].read_text()
    assert read(own["reference_use"]) == []
    assert "embedded data only" in own["reference_use_md"].read_text()


def test_several_seeds_get_a_mean_over_seeds(tmp_path):
    outputs = run(tmp_path, seeds=(0, 1, 2))
    chosen = [
        line
        for line in read(outputs["main"])
        if (line["method"], line["stage"], line["setting"], line["metric"]) == ("ssimbad", "pretrain", "same", "psnr")
    ]
    assert [line["seed"] for line in chosen] == ["0", "1", "2", "mean"]
    mean = chosen[-1]
    half = 4.302653 * 1 / np.sqrt(3)  # Student's t, two degrees of freedom; the seeds score 15, 16, 17
    assert float(mean["value"]) == pytest.approx(16)
    assert float(mean["ci_low"]) == pytest.approx(16 - half, abs=1e-4) and mean["n"] == "3"
    row = next(x for x in outputs["main_md"].read_text().splitlines() if "SSIMBaD, pretrained" in x)
    assert "16.00 [13.52, 18.48]" in row and row.endswith("| 3 |")


def test_one_seed_has_no_mean_line(tmp_path):
    assert "mean" not in {line["seed"] for line in read(run(tmp_path)["main"])}


def test_reference_use_pairs_the_right_with_somebody_elses(tmp_path):
    lines = read(run(tmp_path)["reference_use"])
    line = next(x for x in lines if (x["stage"], x["method"], x["metric"]) == ("finetune", "ssimbad", "psnr"))
    assert float(line["right"]) == pytest.approx(17.5) and float(line["other"]) == pytest.approx(14.5)
    assert float(line["difference"]) == pytest.approx(3) and line["n"] == "20"
    # every face improves by exactly 3 dB: a paired interval has no width, an unpaired one would be 1 dB wide
    assert float(line["ci_low"]) == pytest.approx(3) == pytest.approx(float(line["ci_high"]))


def test_differences_hold_every_pair_of_rows_in_every_setting(tmp_path):
    outputs = run(tmp_path)
    lines = read(outputs["differences"])
    assert len(lines) == 3 * 3 * 2  # settings × pairs × (PSNR, MS-SSIM)
    line = next(
        x
        for x in lines
        if (x["setting"], x["metric"], x["method"], x["stage"], x["than_method"], x["than_stage"])
        == ("cross", "psnr", "ssimbad", "finetune", "ssimbad", "pretrain")
    )
    assert float(line["difference"]) == pytest.approx(3.5)
    assert "+3.50 [+3.50, +3.50]" in outputs["differences_md"].read_text()


def test_values_are_paired_by_id(tmp_path):
    inputs = made(tmp_path)
    shuffled = next(p for p in inputs["images"] if "ssimbad/finetune" in p.as_posix() and p.stem == "same")
    head, *lines = shuffled.read_text().splitlines()
    shuffled.write_text("\n".join([head, *reversed(lines)]) + "\n")
    found = results.load(inputs["summaries"], inputs["images"])
    line = next(x for x in comparisons.differences(found, params().evaluation) if x["stage"] == "finetune")
    assert line["setting"] == "same" and line["ci_high"] - line["ci_low"] == pytest.approx(0, abs=1e-4)


def test_with_several_seeds_the_interval_is_over_their_differences(tmp_path):
    """Finetuned minus pretrained is 3.5 dB with two seeds and 5 dB with the third."""
    inputs = made(tmp_path, seeds=(0, 1, 2))
    luckier = next(p for p in inputs["images"] if p.as_posix().endswith("ssimbad/finetune/seed-2/cross.csv"))
    frame = pd.read_csv(luckier, dtype={"id": str})
    frame["psnr"] += 1.5
    frame.to_csv(luckier, index=False)
    lines = comparisons.differences(results.load(inputs["summaries"], inputs["images"]), params().evaluation)
    line = next(x for x in lines if (x["setting"], x["stage"], x["than_stage"]) == ("cross", "finetune", "pretrain"))
    assert (line["difference"], line["seeds"], line["n"]) == (pytest.approx(4.0), 3, 20)
    half = 4.302653 * np.std([3.5, 3.5, 5.0], ddof=1) / np.sqrt(3)
    assert (line["ci_low"], line["ci_high"]) == (pytest.approx(4 - half, abs=1e-4), pytest.approx(4 + half, abs=1e-4))
    assert "Student t interval" in comparisons.interval_note(0.95, lines)
    assert "Another seed moves a row" in comparisons.interval_note(0.95, [line | {"seeds": 1}])


def test_different_test_ids_are_an_error(tmp_path):
    inputs = made(tmp_path)
    path = inputs["images"][0]
    path.write_text(path.read_text().replace("\n000,", "\nzzz,"))
    found = results.load(inputs["summaries"], inputs["images"])
    with pytest.raises(UserError, match="different test ids"):
        comparisons.differences(found, params().evaluation)


def test_a_summary_without_its_values_is_an_error(tmp_path):
    inputs = made(tmp_path)
    with pytest.raises(UserError, match=r"cross-other\.csv beside it"):
        results.load(inputs["summaries"], [p for p in inputs["images"] if p.stem != "cross-other"])


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    first = {name: path.read_bytes() for name, path in run(tmp_path).items()}
    assert first == {name: path.read_bytes() for name, path in run(tmp_path).items()}


def test_r2_table_has_dashes_and_headings(tmp_path):
    text = run(tmp_path)["r2_md"].read_text()
    first, last = (next(x for x in text.splitlines() if x.startswith(s)) for s in ("| s/(s+0.3)", "| continuous"))
    assert "0.9877 [0.9800, 0.9900] | +0.1000 [+0.0500, +0.1500] | ln s | — | — | 0.9965 |" in first
    assert "0.9900 [0.9800, 1.0000] | +0.0024 [+0.0010, +0.0030] | s/(s+0.3) | 0.9890 | — | — |" in last
    assert "| −0.4877 [−0.5000, −0.4000] | s/(s+0.3) | — | 17.3 | — |" in text
    assert text.index("published candidates") < text.index("Other schedules") < text.index("Chosen on these")


def test_the_fitted_constant_has_its_interval_under_the_table(tmp_path):
    text = run(tmp_path)["r2_md"].read_text()
    assert "Continuous c = 0.184 [0.171, 0.200]: 90 % percentile bootstrap interval over faces" in text
    assert text.count("Continuous c =") == 1 and "Trainings use 0.1837, more digits" in text
    assert "the 90 % percentile bootstrap interval over faces." in text


def test_r2_without_a_column_names_it(tmp_path):
    inputs = made(tmp_path)
    inputs["r2"].write_text("candidate,group\na,b\n")
    with pytest.raises(UserError, match="column label is missing"):
        r2_table.layout(inputs["r2"], "demo", 0.95)


def test_latex_is_balanced_escaped_and_printable(tmp_path):
    outputs = run(tmp_path)
    for name in ("main_tex", "r2_tex", "reference_use_tex", "differences_tex"):
        text = outputs[name].read_text()
        assert text.isascii() or set(re.findall(r"[^\x00-\x7f]", text)) <= set("éüńö")
        assert text.count(r"\begin{table}") == text.count(r"\end{table}") > 0
        assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}")
        body = text.split("\n", 1)[1]
        assert not re.search(r"(?<!\\)[%#]", body)
        assert not re.search(r"(?<!\\)_", body)
        plain = re.sub(r"\\[{}]", "", body)
        assert plain.count("{") == plain.count("}")
        assert len(re.findall(r"(?<!\\)\$", body)) % 2 == 0
        for tabular in re.findall(r"\\begin{tabular}{(l*r*)}(.*?)\\end{tabular}", body, re.S):
            for line in tabular[1].splitlines():
                if line.endswith(r"\\") and "multicolumn" not in line:
                    assert len(re.findall(r"(?<!\\)&", line)) == len(tabular[0]) - 1
    assert r"Control\_50\%" in outputs["main_tex"].read_text()


def test_escape_and_pipes():
    assert escape("a_b & 50% {x} ~^\\") == (r"a\_b \& 50\% \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{}")
    assert r"a\|b" in markdown([Table("t", "t", ["x"], [["a|b"]])])
    assert "{[1, 2]}" in latex([Table("t", "t", ["x"], [["[1, 2]"]])])


def test_footnotes_keep_their_mark():
    notes = Footnotes()
    assert [notes.mark(x) for x in ("one", "two", "one")] == ["(a)", "(b)", "(a)"]
    assert notes.lines() == ["(a) one", "(b) two"]


def test_summaries_of_the_stage_evaluate_are_read_as_they_are(tmp_path):
    path = write_result(tmp_path, "ssimbad", "pretrain", 0, "same")
    [result] = results.load([path[0]], [path[1]])
    assert result.row == ("ssimbad", "pretrain") and result.metrics == json.loads(path[0].read_text())["metrics"]
    assert result.images.index.tolist() == IDS


def test_remarks_of_a_training_are_footnotes_of_its_rows(tmp_path):
    def remark(inputs):
        write_made(tmp_path, "ssimbad", "pretrain", 0, remarks=["Trained in the dark."])

    text = run(tmp_path, change=remark)["main_md"].read_text()
    assert "- (a) Coloured by ddim, eta 1 in 8 steps." in text
    assert "- (b) Trained in the dark." in text
    for label in ("SSIMBaD, pretrained (a) (b)", "SSIMBaD, finetuned (a) (b)", "Control_50% (a) (b)"):
        assert f"| {label} | reproduced" in text, "all three began with that pretraining"


def test_equal_and_unequal_budgets_are_told(tmp_path):
    def longer(inputs):
        write_made(tmp_path / "b", "ssimbad", "finetune", 0, images=1024)

    text = run(tmp_path / "a")["main_md"].read_text()
    assert "equal numbers of images: 512 in pretraining, 512 more in finetuning. Not of computations" in text
    told = run(tmp_path / "b", change=longer)["main_md"].read_text()
    assert "512 in pretraining, but for ssimbad 1,024 in finetuning, control_50% 512 in finetuning. Not of" in told


@pytest.mark.parametrize(
    ("value", "metric", "seeds", "marked"),
    [
        (0.99, "psnr", 1, True),
        (-0.99, "psnr", 1, True),
        (0.5, "psnr", 1, True),
        (0.0, "psnr", 1, True),
        (1.0, "psnr", 1, False),
        (0.9951, "psnr", 1, False),  # shown as 1.00
        (-3.5, "psnr", 1, False),
        (0.29, "psnr", 3, False),  # the interval over seeds says whether
        (0.29, "ms_ssim", 1, False),  # no such limit has been measured
        (None, "psnr", 1, False),
    ],
)
def test_small_differences_of_one_seed_are_not_established(value, metric, seeds, marked):
    line = {"value": value, "ci_low": value and value - 0.1, "ci_high": value and value + 0.1}
    assert results.difference(line, metric, seeds).endswith("] (not established: one seed)") == marked


def test_every_table_of_rows_with_one_seed_says_what_its_intervals_leave_out(tmp_path, monkeypatch):
    monkeypatch.setitem(PSNR, ("control_50%", "finetune"), 15.2)
    one, three = run(tmp_path / "one"), run(tmp_path / "three", seeds=(0, 1, 2))
    for name in ("main_md", "reference_use_md", "differences_md"):
        tables_ = one[name].read_text().count("## ")
        assert one[name].read_text().count("by its rounding; below 1.0 dB of PSNR nothing is claimed") == tables_ > 0
        assert "One seed" not in three[name].read_text()
    rows = one["differences_md"].read_text().splitlines()
    close = [x for x in rows if x.startswith("| Control_50% | SSIMBaD, pretrained | PSNR")]
    assert len(close) == 3 and all("+0.20 [+0.20, +0.20] (not established: one seed) |" in x for x in close)
    assert sum("not established" in x for x in rows) == 3
    assert "not established" not in three["differences_md"].read_text()


def test_what_psnr_pays_for_is_said_under_the_main_table(tmp_path):
    text = run(tmp_path)["main_md"].read_text()
    assert text.count("PSNR pays for the mean of all plausible answers") == 3 == text.count("## ")
