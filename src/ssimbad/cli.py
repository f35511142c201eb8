"""The command line: one form for every stage, and a few commands for people."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ssimbad.errors import ParameterError, UserError

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
    from ssimbad import interrupt, params
    from ssimbad.pipeline import runner

    interrupt.install()
    loaded = params.load()
    runner.run(loaded, runner.find(loaded, name, _pairs(wildcards or [])), force)


@app.command()
def status() -> None:
    """Per stage instance: fresh, or the reason why not."""
    from ssimbad import params
    from ssimbad.pipeline import records

    found = records.survey(params.load())
    width = max(map(len, found))
    for name, reason in found.items():
        print(f"{name:{width}}  {reason or 'fresh'}")


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
    from ssimbad import interrupt, params
    from ssimbad.pipeline import known as answers
    from ssimbad.pipeline import verify as again

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
    device: Annotated[str | None, typer.Option(help="a file in reports/benchmarks; default: the card here")] = None,
    images_per_second: Annotated[
        float | None, typer.Option(help="training images per second of the shared network on one device")
    ] = None,
) -> None:
    """Estimate disk, GPU hours and downloads of the active parameters before anything runs."""
    from ssimbad import params
    from ssimbad.planning import report

    report.show(params.load(), device, images_per_second)


@app.command()
def preset(name: Annotated[str, typer.Argument(help="a file in presets/, such as demo or paper")]) -> None:
    """Make presets/NAME.yaml the active params.yaml and bring dvc.yaml in line."""
    from ssimbad import artifacts, params
    from ssimbad.pipeline import dvcfile

    source = Path("presets") / f"{name}.yaml"
    known = ", ".join(sorted(p.stem for p in Path("presets").glob("*.yaml")))
    if not source.is_file():
        raise ParameterError(
            f"preset {name}: no file {source}; presets are {known or 'missing: run in the repository root'}"
        )
    text = source.read_text(encoding="utf-8")
    loaded = params.parse(text, str(source))
    artifacts.write_text(Path("params.yaml"), text)
    dvcfile.write(loaded)
    print(f"{source} -> params.yaml, dvc.yaml")


@app.command()
def parameters() -> None:
    """Print every key of params.yaml with its type, limits and meaning (docs/parameters.md)."""
    from ssimbad import params_page

    print(params_page.page(), end="")


@app.command("dvc-yaml")
def dvc_yaml() -> None:
    """Write dvc.yaml from the stage table, after an edit of params.yaml that adds or removes instances."""
    from ssimbad import params
    from ssimbad.pipeline import dvcfile

    print(f"stage table -> {dvcfile.write(params.load())}")


@app.command()
def sync(
    status: Annotated[str | None, typer.Option(help="how this pipeline execution ended: FINISHED or FAILED")] = None,
) -> None:
    """Tell DVC what is fresh and bring the MLflow logbook up to date. Snakemake does it at the end of each run."""
    from ssimbad import params
    from ssimbad.pipeline import sync as synchronise

    synchronise.run(params.load(), status)


@app.command()
def ui(port: Annotated[int, typer.Option(help="on 127.0.0.1")] = 5000) -> None:
    """Open the MLflow logbook at the page of this project's runs."""
    from ssimbad import params
    from ssimbad.pipeline import sync as synchronise
    from ssimbad.tracking import ui as browser

    params.load()
    synchronise.import_spools()
    sys.exit(browser.serve(port))


@app.command()
def results() -> None:
    """Name the tables and figures that are there, and write the cost table."""
    from ssimbad import params
    from ssimbad.reporting import summary

    summary.show(params.load())


@app.command()
def colorize(
    sketch: Annotated[Path, typer.Option(help="a picture, or a folder of pictures")],
    reference: Annotated[Path, typer.Option(help="a picture for all sketches, or a folder with equal names")],
    weights: Annotated[Path, typer.Option(help="NAME.safetensors, with NAME.json beside it")],
    out: Annotated[Path, typer.Option(help="a .png, or a folder when the sketches are one")],
    fit: Annotated[
        str, typer.Option(help="model: the model's size; sketch: the sketch's own, lines laid over")
    ] = "model",
    steps: Annotated[int | None, typer.Option(help="sampling steps; default: as the weights were made for")] = None,
    sampler: Annotated[str | None, typer.Option(help="euler, heun, dpmpp_2m or ddim; default as above")] = None,
    seed: Annotated[int, typer.Option(help="of the initial noise")] = 0,
) -> None:
    """Colour your own sketches after a reference."""
    from ssimbad.colorize import user

    user.run(sketch, reference, weights, out, fit, steps, sampler, seed)


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
    try:
        app()
    except UserError as error:
        print(f"ssimbad: {error}", file=sys.stderr)
        sys.exit(error.code)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:  # a full disk, a folder without permission, a file server that went away
        print(f"ssimbad: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
