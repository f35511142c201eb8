"""The command line: one form for every stage, and a few commands for people."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ssimbad.errors import ParameterError, UserError, in_one_line
from ssimbad.runtime import cores

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="SSIMBaD, reproduced: from raw anime faces to the tables of the study.",
)


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="a stage of the pipeline, such as faces or colorize")],
    wildcards: Annotated[
        list[str] | None,
        typer.Argument(help="method=… stage=… seed=… setting=…, where the stage has instances"),
    ] = None,
    force: Annotated[bool, typer.Option(help="compute even when the result is fresh or kept")] = False,
) -> None:
    """Run one stage instance, as Snakemake and DVC do. Fresh results are left alone, kept ones restored."""
    from ssimbad.params import tree as params
    from ssimbad.pipeline import runner
    from ssimbad.runtime import interrupt

    interrupt.install()
    loaded = params.load()
    instance = runner.find(loaded, name, _pairs(wildcards or []))
    if instance.stage.run.startswith("ssimbad.reporting."):  # it shows the results of others
        from ssimbad.reporting import stale

        for line in stale.of_sources(loaded, instance):
            print(line, file=sys.stderr)
    runner.run(loaded, instance, force)


@app.command()
def status() -> None:
    """Per stage instance: fresh, with which other libraries it was made if it was, or the reason why it is not."""
    from ssimbad.params import tree as params
    from ssimbad.pipeline import dvcfile, records, table

    loaded = params.load()
    found = records.survey(loaded)
    width = max(map(len, found))
    for instance in table.instances(loaded):
        text = found[instance.name] or ", ".join(filter(None, ("fresh", records.other_libraries(instance))))
        print(f"{instance.name:{width}}  {text}")
    if reason := dvcfile.outdated(loaded):
        print(f"ssimbad: {reason}", file=sys.stderr)


@app.command()
def verify(
    name: Annotated[str | None, typer.Argument(help="a stage; default: all, but the expensive ones")] = None,
    wildcards: Annotated[
        list[str] | None, typer.Argument(help="method=… stage=… seed=… setting=…; those left out may be any")
    ] = None,
    expensive: Annotated[
        bool, typer.Option("--expensive", help="without a stage: trainings and colourings too")
    ] = False,
    known: Annotated[bool, typer.Option("--known", help="compare the demo's data with the list of known md5s")] = False,
    write: Annotated[bool, typer.Option("--write", help="with --known: make the list anew from what is here")] = False,
) -> None:
    """Compute stages again in scratch and compare the bytes with what is there. Exit code 1: something differs."""
    from ssimbad.params import tree as params
    from ssimbad.pipeline import known as answers
    from ssimbad.pipeline import verify as again
    from ssimbad.runtime import interrupt

    if known and (name or expensive):
        raise ParameterError("verify --known compares files that are there; give it no stage and no --expensive")
    if write and not known:
        raise ParameterError("verify --write makes the list of --known anew; give both")
    interrupt.install()
    loaded = params.load()
    if write:
        print(f"known answers -> {answers.write(loaded)}")
    elif not (answers.run(loaded) if known else again.run(loaded, name, _pairs(wildcards or []), expensive)):
        sys.exit(1)


@app.command()
def plan(
    device: Annotated[str | None, typer.Option(help="a file in reports/benchmarks; default: what is here")] = None,
    images_per_second: Annotated[
        float | None, typer.Option(help="training images per second of the shared network on one device")
    ] = None,
    devices: Annotated[int, typer.Option(help="so many of them share each training and colouring")] = 1,
) -> None:
    """Estimate disk, hours and downloads of the active parameters before anything runs."""
    from ssimbad.params import tree as params
    from ssimbad.planning import report

    report.show(params.load(), device, images_per_second, devices)


@app.command()
def preset(
    name: Annotated[str, typer.Argument(help="a file in presets/, such as demo or paper")],
    unless_active: Annotated[
        bool, typer.Option(help="leave params.yaml alone when it comes from this preset, edited or not")
    ] = False,
) -> None:
    """Make presets/NAME.yaml the active params.yaml; one that was edited and not committed is kept as a copy."""
    from ssimbad.pipeline import preset as presets

    presets.activate(name, unless_active)


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="one that is not there yet, or empty")]) -> None:
    """Lay out Snakefile, workflow, presets and params.yaml for a study of your own, outside of a checkout."""
    from ssimbad.pipeline import study

    print(study.lay_out(folder))


@app.command()
def sweep(
    name: Annotated[str, typer.Argument(help="of the preset that is written: presets/sweep-NAME.yaml")],
    values: Annotated[
        list[str],
        typer.Argument(help="key=v1,v2 below the block, as pretrain.learning_rate=1.0e-3,2.0e-3"),
    ],
    of: Annotated[str, typer.Option(help="the method of the active parameters whose block is varied")],
    seeds: Annotated[str | None, typer.Option(help="such as 0,1,2; default: those that are active")] = None,
) -> None:
    """Lay a grid over values of one method, with seeds, as rows of one run: a preset, and a table of its points."""
    from ssimbad.pipeline import sweep as grid

    try:
        chosen = [int(seed) for seed in seeds.split(",")] if seeds else None
    except ValueError:
        raise ParameterError(f"--seeds {seeds}: expected whole numbers with commas between, such as 0,1,2") from None
    print(grid.run(name, of, _pairs(values), chosen))


@app.command()
def clean(
    what: Annotated[str, typer.Argument(help="results: what the stages made; work: states and kept trainings")],
) -> None:
    """Remove what the stages made, and nothing else: files of your own in the same folders stay."""
    from ssimbad.params import tree as params
    from ssimbad.pipeline import cleaning

    cleaning.run(what, params.load())


@app.command()
def gc(
    keep: Annotated[int, typer.Option(help="so many results of other parameters stay of each stage, the newest")] = 1,
    days: Annotated[float, typer.Option(help="spools in the logbook and logs of SLURM stay for so long")] = 30,
    cache: Annotated[
        bool, typer.Option("--cache", help="also of DVC's cache all but workspace, branches and tags")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say it, and remove nothing")] = False,
) -> None:
    """Remove what nothing needs: never what is fresh, or what a branch or tag names in its dvc.lock."""
    from ssimbad.params import tree as params
    from ssimbad.pipeline import gc as collector

    collector.run(params.load(), keep, days, cache, dry_run)


@app.command()
def parameters(
    schema: Annotated[bool, typer.Option("--schema", help="as JSON schema, for editors")] = False,
) -> None:
    """Print every key of params.yaml with its type, limits and meaning (docs/parameters.md, params.schema.json)."""
    from ssimbad import params_page

    print(params_page.schema() if schema else params_page.page(), end="")


@app.command("dvc-yaml")
def dvc_yaml() -> None:
    """Write dvc.yaml from the stage table, after an edit of params.yaml that adds or removes instances."""
    from ssimbad.params import tree as params
    from ssimbad.pipeline import dvcfile

    print(f"stage table -> {dvcfile.write(params.load())}")


@app.command()
def versions(
    confirm: Annotated[bool, typer.Option(help="write down the code as it is now, in workflow/closures.json")] = False,
) -> None:
    """Name what has changed in the code of the expensive stages since their versions were confirmed."""
    from ssimbad.pipeline import versions as guard

    if confirm:
        print(f"code and versions -> {guard.confirm()}")
    elif found := guard.doubts():
        print("\n".join(found))
        raise UserError(guard.REMEDY)


@app.command()
def sync(
    status: Annotated[str | None, typer.Option(help="how this pipeline execution ended: FINISHED or FAILED")] = None,
) -> None:
    """Tell DVC what is fresh and bring the MLflow logbook up to date. Snakemake does it at the end of each run."""
    from ssimbad.params import tree as params
    from ssimbad.pipeline import sync as synchronise

    synchronise.run(params.load(), status)


@app.command()
def ui(port: Annotated[int, typer.Option(help="on 127.0.0.1")] = 5000) -> None:
    """Open the MLflow logbook at the page of this project's runs."""
    from ssimbad.params import tree as params
    from ssimbad.pipeline import sync as synchronise
    from ssimbad.tracking import ui as browser

    params.load()
    synchronise.import_spools()
    sys.exit(browser.serve(port))


@app.command()
def results() -> None:
    """Name the tables and figures that are there, and write the cost table and reports/index.html."""
    from ssimbad.params import tree as params
    from ssimbad.reporting import summary

    summary.show(params.load())


@app.command()
def colorize(
    sketch: Annotated[Path | None, typer.Option(help="a picture, or a folder of pictures")] = None,
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            help="a picture for all sketches, or a folder with equal names; repeatable: the answers are averaged"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="a .png, or a folder; never onto a file of yours")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="NAME.safetensors, with NAME.json beside it, or a folder that export wrote; default: the best here,"
            " else ssimbad:starter, the package's"
        ),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(help="model: the model's size; sketch: the sketch's own, under its lines; default: model"),
    ] = None,
    lines: Annotated[
        str | None,
        typer.Option(
            help="auto: found in any drawing; clean: darker than the paper; invert: lighter; as-is: grey as it is;"
            " default: auto"
        ),
    ] = None,
    layers: Annotated[
        Path | None,
        typer.Option(help="write the colours alone at the sketch's own size, to lie under its lines"),
    ] = None,
    ora: Annotated[
        Path | None,
        typer.Option(help="write an OpenRaster file: lines, colours and flat areas as layers; a .ora, or a folder"),
    ] = None,
    show_lines: Annotated[
        Path | None, typer.Option(help="write the drawing as the network sees it: a .png, or a folder")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="sampling steps; default: as the weights were made for")] = None,
    sampler: Annotated[
        str | None, typer.Option(help="one of those that the weights' method has; default as above")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="of the initial noise; default: 0")] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="white where the sketch's figure is, or a folder with equal names; default: by rule"),
    ] = None,
    reference_mask: Annotated[Path | None, typer.Option(help="the same of the reference")] = None,
    mask_network: Annotated[
        Path | None,
        typer.Option(help="finds the reference's figure in place of the rule: an ONNX file, see docs/methods.md"),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="key=value of the method's colour options, such as mode=fig2fig; repeatable"),
    ] = None,
    sequence: Annotated[
        bool, typer.Option("--sequence", help="the folder is a sequence of frames: tell how much neighbours differ")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace earlier answers; no other file ever is")
    ] = False,
    repeated: Annotated[
        Path | None, typer.Option("--from", help="a .json of the page or of --note: all that is not said here")
    ] = None,
    note: Annotated[Path | None, typer.Option(help="write a .json that --from repeats")] = None,
) -> None:
    """Colour your own sketches after a reference. Exit code 3: some of a folder cannot be read; the others are done."""
    from ssimbad.colorize import user

    given = {
        "sketch": sketch, "reference": reference, "out": out, "weights": weights, "fit": fit, "lines": lines,
        "layers": layers, "ora": ora, "show_lines": show_lines, "steps": steps, "sampler": sampler, "seed": seed,
        "mask": mask, "reference_mask": reference_mask, "mask_network": mask_network,
        "options": _pairs(option or []), "sequence": sequence,
        "overwrite": overwrite,
    }  # fmt: skip
    user.command(given, repeated, note)


@app.command()
def page(
    weights: Annotated[
        list[Path] | None,
        typer.Option(help="NAME.safetensors, repeatable; default: all in models/, and ssimbad:starter, the package's"),
    ] = None,
    study: Annotated[Path | None, typer.Option(help="a file of sets of pictures to be rated")] = None,
    votes: Annotated[Path, typer.Option(help="where the study's votes are added")] = Path("reports/votes.csv"),
    port: Annotated[int, typer.Option(help="on 127.0.0.1")] = 7860,
) -> None:
    """Open the page for colouring and rating in a browser; it asks nothing of any other machine."""
    from ssimbad.web import server

    server.serve(weights or [], study, votes, port)


@app.command()
def evaluate(
    real: Annotated[Path, typer.Option(help="a folder with the right pictures")],
    generated: Annotated[Path, typer.Option(help="a folder with the pictures to judge, of the same names")],
    size: Annotated[
        int | None, typer.Option(help="cut and resize all to this side; default: they are of one size")
    ] = None,
    sketches: Annotated[Path | None, typer.Option(help="a folder with the given sketches: line fidelity")] = None,
    references: Annotated[Path | None, typer.Option(help="a folder with the references: palette distance")] = None,
    inception: Annotated[Path | None, typer.Option(help="pytorch-fid's weights file: FID and KID")] = None,
    alexnet: Annotated[Path | None, typer.Option(help="torchvision's weights file: LPIPS")] = None,
    clip: Annotated[Path | None, typer.Option(help="laion2B's ViT-B/32, .safetensors: similarity to CLIP")] = None,
) -> None:
    """Measure one folder of pictures against another by all metrics of the study (docs/metrics.md)."""
    from ssimbad.metrics import folders

    asked = {"inception": inception, "alexnet": alexnet, "clip": clip}
    networks = {name: path for name, path in asked.items() if path}
    print(folders.run(real, generated, size, sketches, references, networks))


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="<method>/<stage>, <method>/<stage>@WHERE, or @WHERE for all rows")],
    second: Annotated[str, typer.Argument(help="the same; WHERE: a folder, a zip of export-run, a git revision")],
    setting: Annotated[str | None, typer.Option(help="this one alone, such as same or cross-true")] = None,
    metric: Annotated[str | None, typer.Option(help="this one alone, such as psnr")] = None,
) -> None:
    """Print the paired differences, second minus first, of two rows or of all rows of two places."""
    from ssimbad.reporting import compare as comparing

    print(comparing.run(first, second, setting, metric), end="")


@app.command()
def export(
    row: Annotated[str, typer.Argument(help="<method>/<stage>")],
    out: Annotated[Path, typer.Option(help="the folder to write; what is there already is never replaced")],
    seed: Annotated[int | None, typer.Option(help="of the training; default: the first of the parameters")] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="with the network as ONNX, for programs without Python")] = False,
    half: Annotated[bool, typer.Option("--half", help="tensors as float16: half the size")] = False,
) -> None:
    """Write a row's weights as a folder that others can load, with a model card, in the Hugging Face hub's form."""
    from ssimbad.params import tree as params
    from ssimbad.pipeline import publish

    print(publish.run(params.load(), row, out, seed, onnx, half))


@app.command("export-run")
def export_run(
    row: Annotated[str, typer.Argument(help="<method>/<stage>")],
    out: Annotated[Path, typer.Option(help="the zip to write; a file of that name is never replaced")],
    weights: Annotated[bool, typer.Option("--weights", help="with the weights themselves")] = False,
) -> None:
    """Write a row into one zip: parameters, revision of the code, records, numbers and pictures."""
    from ssimbad.params import tree as params
    from ssimbad.pipeline import export

    print(export.run(params.load(), row, out, weights))


def _pairs(words: list[str]) -> dict[str, str]:
    pairs = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign:
            raise ParameterError(f"{word}: expected key=value, such as method=ssimbad or seed=0")
        pairs[key] = value
    return pairs


def main() -> None:
    """Entry point: a user's mistake ends in one line on stderr and its exit code."""
    # Before PyTorch is loaded: its C++ side would warn of what is meant so, such as parameters that may go unused.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is: names of files may be no text
    try:
        with in_one_line("ssimbad"):
            cores.claim()
            app()
    except ModuleNotFoundError as error:
        from ssimbad import extras

        if not (remedy := extras.remedy(error.name)):
            raise
        print(f"ssimbad: {remedy}", file=sys.stderr)
        sys.exit(1)
