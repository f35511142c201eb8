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
    """Per stage instance: fresh, with which other libraries it was made if it was, or the reason why it is not."""
    from ssimbad import params
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
    from ssimbad.pipeline import code, dvcfile

    code.require_own()
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
