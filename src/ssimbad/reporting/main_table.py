"""The main table: published beside reproduced, per setting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

from ssimbad.pairing.settings import LISTED
from ssimbad.params.methods import Method
from ssimbad.reporting import results as res
from ssimbad.reporting.markup import DASH, Footnotes, Table
from ssimbad.reporting.published import FACES, SIZE, published
from ssimbad.reporting.results import METRICS, Line, Result

if TYPE_CHECKING:
    from ssimbad.metrics.baselines import Baselines
    from ssimbad.metrics.measure import Entry

COLUMNS = ["method", "stage", "setting", "seed", "metric", "value", "ci_low", "ci_high", "n", "published"]


class Trained(TypedDict):
    """Of the block of a training."""

    start: str | None


class Made(TypedDict):
    """How weights were made, as far as the tables tell it."""

    method: str
    stage: str
    seed: int
    images: int
    train: Trained
    remarks: list[str]


BASELINES = {
    "reference": "Warped reference itself",
    "mean_color": "Mean colour of the training faces",
    "ground_truth": "The sketch's own face",
    "true_answer": "The true answer: that face in the reference's colours",
}


def long_form(results: list[Result], confidence: float) -> list[Line]:
    """Lines of main.csv (`COLUMNS`): one per instance and metric.

    A row with several seeds also has lines with seed `mean`, whose interval is over seeds and whose n counts
    seeds; elsewhere n counts test images. An empty value has its reason in the summary.
    """
    lines: list[Line] = []
    for result in results:
        if result.setting in LISTED:
            lines += [_line(result, metric, result.seed, result.metrics[metric]) for metric in _metrics([result])]
    for row in res.rows(results):
        for setting in LISTED:
            seeds = _of(results, row, setting)
            if len(seeds) > 1:
                lines += [
                    _line(seeds[0], metric, "mean", res.over_seeds(seeds, metric, confidence))
                    for metric in _metrics(seeds)
                ]
    return lines


def _line(result: Result, metric: str, seed: int | str, entry: Entry) -> Line:
    about: Line = {"method": result.method, "stage": result.stage, "setting": result.setting, "seed": seed}
    known = published(result.method, result.stage, result.setting, metric)
    return {**about, "metric": metric, "published": known, **res.interval(entry), "n": entry["n"]}


def _of(results: list[Result], row: res.Row, setting: str) -> list[Result]:
    return [result for result in results if result.row == row and result.setting == setting]


def _metrics(results: list[Result]) -> list[str]:
    return [metric for metric in METRICS if any(metric in result.metrics for result in results)]


def layout(
    results: list[Result],
    baselines: Baselines,
    labels: dict[res.Row, str],
    preset: str,
    confidence: float,
    made: list[Made],
    methods: Mapping[str, Method],
) -> list[Table]:
    """One table per setting: per row reproduced with interval, and where one exists published; the difference of both
    only where they were measured on images of one kind and size.

    Below a rule: what no method at all scores (from the stage baselines). `made`: how all weights were made; the
    remarks of a training become footnotes of its row. `methods`: of the parameters (weights, colour).
    """
    embedded = any(result.setting == "cross-true" for result in results)
    alike = not (embedded or res.demo_scale(preset) or any(result.size != SIZE for result in results))
    tables = []
    for setting, words in LISTED.items():
        here = [result for result in results if result.setting == setting]
        if not here:
            continue
        metrics = _metrics(here)
        notes = Footnotes()
        rows: list[list[str] | str] = []
        for row in res.rows(here):
            said = _remarks(row, made, methods)
            label = " ".join([labels[row], *(notes.mark(text) for text in said)])
            rows += _method_rows(row, _of(here, row, setting), metrics, label, confidence, notes, alike)
        measured = {label: baselines["rows"].get(name, {}).get(setting) for name, label in BASELINES.items()}
        rows += ["Without any method"] if any(measured.values()) else []
        for label, entries in measured.items():
            if entries:
                cells = (_cell(entries.get(metric, res.NOT_MEASURED), metric, notes) for metric in metrics)
                rows.append([label, "measured", *cells, DASH])
        title = f"Main table, {words} — {res.scale_note(preset, here[0].size, here[0].n)}"
        footnotes = [*notes.lines(), *_notes(here, confidence, embedded, alike), *budgets(made)]
        tables.append(Table(title, f"main-{setting}", _head(here, metrics), rows, footnotes, words=2))
    return tables


def _method_rows(
    row: res.Row,
    seeds: list[Result],
    metrics: list[str],
    label: str,
    confidence: float,
    notes: Footnotes,
    alike: bool,
) -> list[list[str]]:
    entries = {metric: res.over_seeds(seeds, metric, confidence) for metric in metrics}
    lines = [[label, "reproduced", *(_cell(entries[m], m, notes) for m in metrics), str(len(seeds))]]
    known = {metric: published(*row, seeds[0].setting, metric) for metric in metrics}
    if any(value is not None for value in known.values()):
        lines.append(["", "published", *(res.number(known[m], m) for m in metrics), DASH])
        if alike:
            gaps = {m: _gap(entries[m]["value"], known[m]) for m in metrics}
            if seeds[0].n != FACES:
                gaps["fid"] = None  # it falls with the number of faces
            lines.append(["", "difference", *(res.number(gaps[m], m, signed=True) for m in metrics), ""])
    return lines


def _remarks(row: res.Row, made: list[Made], methods: Mapping[str, Method]) -> list[str]:
    """How a row colours, with whose weights, and what is to be said of their training and the one it started from."""
    method, stage = row
    block = methods[method]
    owner = block.weights or f"{method}/{stage}"
    of = {f"{m['method']}/{m['stage']}": m for m in made if m["seed"] == made[0]["seed"]}
    said = [f"Coloured {block.colour[stage].words}." + (f" Weights of {owner}." if block.weights else "")]
    start = of[owner]["train"]["start"] if owner in of else None
    trainings = [of[name] for name in (owner, start) if name in of]
    return list(dict.fromkeys([*said, *(text for m in trainings for text in m["remarks"])]))


_SEEN = {"pretrain": "in pretraining", "finetune": "more in finetuning"}


def budgets(made: list[Made]) -> list[str]:
    """A note, or none without any training: whether the rows are compared at equal images seen, and which are not."""
    images = {(m["method"], m["stage"]): m["images"] for m in made}  # equal for all seeds
    usual = {stage: count for stage in _SEEN if (count := _of_most([n for (_, s), n in images.items() if s == stage]))}
    others = [
        f"{method} {count:,} {_SEEN.get(slot, f'in {slot}').removeprefix('more ')}"
        for (method, slot), count in images.items()
        if count != usual.get(slot)
    ]
    if not usual:
        return [f"Rows saw different numbers of images: {', '.join(others)}."] if others else []
    equal = ", ".join(f"{count:,} {_SEEN[stage]}" for stage, count in usual.items())
    but = f", but for {', '.join(others)}" if others else ""
    return [
        f"Rows saw equal numbers of images: {equal}{but}. Not of computations: an image of a refinement costs as many"
        " network calls as its chain has."
    ]


def _of_most(counts: list[int]) -> int | None:
    """The number that more than half of them are; None where there is none."""
    count, times = Counter(counts).most_common(1)[0] if counts else (None, 0)
    return count if 2 * times > len(counts) else None


def _gap(value: float | None, known: float | None) -> float | None:
    return None if value is None or known is None else value - known


def _cell(entry: Entry, metric: str, notes: Footnotes) -> str:
    mark = " " + notes.mark(entry["reason"]) if "reason" in entry else ""
    return res.with_interval(entry, metric) + mark


def _head(here: list[Result], metrics: list[str]) -> list[str]:
    def name(metric: str) -> str:
        word, _, better = METRICS[metric]
        count = _scales(here) if metric == "ms_ssim" else None
        detail = f" ({count} scales)" if count else f" (n = {here[0].n})" if res.BY_ID[metric].of_set else ""
        return f"{word}{detail} {better}"

    return ["Method", "", *map(name, metrics), "Seeds"]


def _notes(here: list[Result], confidence: float, embedded: bool, alike: bool) -> list[str]:
    percent = f"{100 * confidence:g} %"
    seeds = {len(_of(here, row, here[0].setting)) for row in res.rows(here)}
    lines = []
    if 1 in seeds:
        lines.append(f"In brackets the {percent} percentile bootstrap interval over test faces. {res.ONE_SEED}")
    if seeds - {1}:
        lines.append(f"Several seeds: mean and {percent} Student t interval over seeds.")
    if any(published(*row, here[0].setting, "psnr") is not None for row in res.rows(here)):
        lines.append(
            f"Published: README of the SSIMBaD repository, {SIZE}×{SIZE} pixels, {FACES} Danbooru faces,"
            " MS-SSIM with five scales, no intervals given."
            + ("" if alike else " No difference is formed: it would be one of images, not of methods.")
        )
    for metric in _metrics(here):
        lines += [res.BY_ID[metric].note] if res.BY_ID[metric].note else []
        if metric == "ms_ssim" and (count := _scales(here)) and count < 5:
            lines.append(
                f"MS-SSIM with its first {count} scales, weights renormalised: five need a side above 160 pixels."
            )
    if embedded:
        lines.append("Embedded data: rendered cartoon faces, not the published Danbooru faces.")
    return lines


def _scales(here: list[Result]) -> int | None:
    """Of MS-SSIM, the same for all images of a size; None where no row has it."""
    return next((r.metrics["ms_ssim"]["scales"] for r in here if "scales" in r.metrics.get("ms_ssim", {})), None)
