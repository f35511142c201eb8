"""Stage compute: what the rows reach, ordered by the work that their training took.

Equal numbers of images are not equal work: an image of a refinement costs as many network calls, forwards and
backwards, as its chain has. Floating-point operations are counted exactly (planning/flops.py) and include the
pretraining that a row started from.
"""

from collections.abc import Mapping
from pathlib import Path

from ssimbad import artifacts
from ssimbad.methods import registry
from ssimbad.methods.contract import PHI
from ssimbad.pairing.settings import LISTED
from ssimbad.params.methods import Method, lender, needs
from ssimbad.params.tree import Params
from ssimbad.planning import flops
from ssimbad.reporting import results as res
from ssimbad.reporting.markup import DASH, Table, latex, markdown
from ssimbad.reporting.results import METRICS, Line, Result
from ssimbad.runtime.job import Job

COLUMNS = [
    *("method", "stage", "pflop", "images", "chain", "nfe"),
    *("setting", "metric", "value", "ci_low", "ci_high", "n", "seeds"),
]
EQUAL = 0.02
"""Rows whose training took the same work but for this share stand in one group."""


def run(params: Params, inputs: Mapping[str, list[Path]], outputs: Mapping[str, Path], job: Job) -> None:
    """Write compute (.csv with `COLUMNS`, _md, _tex).

    `pflop`: 10^15 operations of the row's training and of the one it started from; `images` seen in both; `chain`:
    network calls per image of its last training; `nfe`: per coloured image.

    Inputs: summaries (list of .json), images (list of .csv). Parameters: evaluation, preset, methods, and what the
    networks are built from.

    Raises:
        UserError: an input is missing or does not fit the others.
    """
    found = res.load(inputs["summaries"], inputs["images"])
    work = {row: effort(params, *row) for row in res.rows(found)}
    lines = [line for row in work for line in _lines(found, row, work[row], params.evaluation.confidence)]
    artifacts.write_csv(outputs["compute"], COLUMNS, lines)
    names = res.labels(work, params.methods)
    note = res.scale_note(params.preset, found[0].size, found[0].n)
    settings = [s for s in LISTED if any(line["setting"] == s for line in lines)]
    tables = [_layout(lines, names, s, note, params.evaluation.confidence) for s in settings]
    artifacts.write_text(outputs["compute_md"], markdown(tables))
    artifacts.write_text(outputs["compute_tex"], latex(tables))
    job.say(f"compute: {len(work)} rows -> {outputs['compute']}, {outputs['compute_md']}")


def effort(params: Params, method: str, stage: str) -> Line:
    """pflop, images, chain and nfe of a row (see `run`): of the training of its weights and of all that it was made
    from."""
    lent = lender(params.methods, method)
    own, *before = trainings(params.methods, lent, stage)
    work = {training: flops.training(params, *training) for training in (own, *before)}
    images = {(name, slot): params.methods[name].trainings[slot].images for name, slot in work}
    total = sum(work[training].train * images[training] for training in work)
    return {
        "pflop": float(f"{total / 1e15:.4g}"),
        "images": sum(images.values()),
        "chain": work[own].chain,
        "nfe": registry.nfe(params.methods[method].kind, params.methods[method].colour[stage]),
    }


def trainings(methods: Mapping[str, Method], name: str, slot: str) -> list[tuple[str, str]]:
    """(method, slot) of a training and of those that it needs, each once."""
    found = {(name, slot): None}
    for what in needs(methods, name, slot).values():
        if what != PHI:
            found |= dict.fromkeys(trainings(methods, *what.split("/")))
    return list(found)


def _lines(found: list[Result], row: res.Row, work: Line, confidence: float) -> list[Line]:
    lines: list[Line] = []
    for setting in LISTED:
        seeds = [r for r in found if r.row == row and r.setting == setting]
        for metric in [m for m in METRICS if seeds and m in seeds[0].metrics]:
            entry = res.over_seeds(seeds, metric, confidence)
            about: Line = {"method": row[0], "stage": row[1], "setting": setting, "metric": metric, "n": seeds[0].n}
            lines.append({**about, **work, **res.interval(entry), "seeds": entry["seeds"]})
    return lines


def _layout(lines: list[Line], names: dict[res.Row, str], setting: str, note: str, confidence: float) -> Table:
    here = [line for line in lines if line["setting"] == setting and line["value"] is not None]
    metrics = [m for m in METRICS if any(line["metric"] == m for line in here)]
    rows: list[list[str] | str] = []
    for group in groups({(x["method"], x["stage"]): x["pflop"] for x in here}):
        rows.append(f"{_work_of(here, group[0])['pflop']:.3g} PFLOP" + (", equal work" if group[1:] else ""))
        rows += [_row(here, row, names[row], metrics) for row in group]
    seeds = min(line["seeds"] for line in here)
    percent = f"{100 * confidence:g} %"
    notes = [
        "Work: floating-point operations of the whole training, two per multiply-add, the pretraining that a row"
        f" started from included. Rows under one heading differ in it by less than {100 * EQUAL:g} %.",
        f"Mean with {percent} Student t interval over {seeds} seeds."
        if seeds > 1
        else f"One seed: {percent} bootstrap interval over test faces; another seed may move a row by more.",
    ]
    columns = ["Method", "Images seen", "Calls per image, training", "Calls per image, colouring"]
    columns += [" ".join(METRICS[m][::2]) for m in metrics]
    return Table(f"Training compute, {LISTED[setting]} — {note}", f"compute-{setting}", columns, rows, notes, words=1)


def groups(work: Mapping[res.Row, float]) -> list[list[res.Row]]:
    """Rows by rising work, those of equal work together."""
    found: list[list[res.Row]] = []
    for row in sorted(work, key=work.__getitem__):
        if found and work[row] <= work[found[-1][0]] * (1 + EQUAL):
            found[-1].append(row)
        else:
            found.append([row])
    return found


def _work_of(here: list[Line], row: res.Row) -> Line:
    return next(line for line in here if (line["method"], line["stage"]) == row)


def _row(here: list[Line], row: res.Row, name: str, metrics: list[str]) -> list[str]:
    work = _work_of(here, row)
    entries = {line["metric"]: line for line in here if (line["method"], line["stage"]) == row}
    cells = [res.with_interval(entries[m], m) if m in entries else DASH for m in metrics]
    return [name, f"{work['images']:,}", str(work["chain"]), str(work["nfe"]), *cells]
