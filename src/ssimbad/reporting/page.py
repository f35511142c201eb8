"""reports/index.html: all results on one page that needs nothing else - no network, no files beside it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import pandas as pd
import yaml

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.faces import manifest
from ssimbad.metrics.test_set import by_id
from ssimbad.pairing import resize, settings
from ssimbad.params.tree import Params
from ssimbad.pipeline import paths, records, rows, written
from ssimbad.pipeline.paths import Wildcards
from ssimbad.pipeline.table import Instance
from ssimbad.reporting import results as res
from ssimbad.tracking import spool

_TEMPLATE = Path(__file__).with_name("page.html")
_PLACE = "/*data*/null"
_POINTS = 200
"""Of a curve, at most."""


def write(params: Params, table: Iterable[Instance], found: Mapping[str, str | None], notes: list[str]) -> Path:
    """Write the page from what is there and fresh; `notes` stand at its top.

    Raises:
        UserError: a file of somebody's own has its name.
    """
    target = Path(written.PAGE)
    if target.exists() and written.read(written.NOTES / "results.json").get(written.PAGE) != records.md5(target):
        raise UserError(f"{target}: not the page that `ssimbad results` wrote; move it away, it would be replaced")
    fresh = {i.name: i for i in table if found[i.name] is None}
    data = {
        "preset": params.preset,
        "scale": res.scale_note(params.preset, params.data.size, params.data.test),
        "origin": spool.origin().get("git_revision", ""),
        "notes": notes,
        "metrics": [{"id": m, "label": label, "decimals": d, "better": b} for m, (label, d, b) in res.METRICS.items()],
        "settings": [{"id": name, "words": words} for name, words in settings.LISTED.items()],
        "rows": _rows(params, fresh),
        "main": _records(Path("reports/tables/main.csv")),
        "tables": [{"name": p.stem, "rows": _records(p)} for p in _files(fresh, "reports/tables", ".csv")],
        "figures": [{"name": p.stem, "src": _uri(p.read_bytes())} for p in _files(fresh, "reports/figures", ".png")],
        "faces": _faces(params, fresh),
    }
    artifacts.write_text(target, filled(data))
    return target


def filled(data: Mapping[str, Any]) -> str:
    """The page of these data, which its script sets as text: no name or label becomes markup."""
    # Nothing in a script element ends it, or begins a comment, without one of these.
    text = json.dumps(data).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    before, _, after = _TEMPLATE.read_text(encoding="utf-8").partition(_PLACE)
    return before + text + after


def _rows(params: Params, fresh: Mapping[str, Instance]) -> list[dict[str, Any]]:
    """The rows of the main table under its labels, which tell a method's stages apart."""
    shown = [w for w in rows.listed(params) if w["seed"] == params.seeds[0]]
    labels = res.labels([(w["method"], w["stage"]) for w in shown], params.methods)
    return [_row(params, w, fresh) | {"label": labels[w["method"], w["stage"]]} for w in shown]


def _row(params: Params, w: Wildcards, fresh: Mapping[str, Instance]) -> dict[str, Any]:
    """What a row is, how it was made, and the records of its numbers."""
    block = params.methods[w["method"]]
    judged = [
        json.loads(Path(i.record).read_text(encoding="utf-8"))
        for i in fresh.values()
        if i.stage.name == "evaluate" and (i.wildcards["method"], i.wildcards["stage"]) == (w["method"], w["stage"])
    ]
    weights = paths.weights(params, w)
    made, curve = (Path(weights).with_suffix(ending) for ending in (".json", ".csv"))
    return {
        "id": f"{w['method']}/{w['stage']}",
        "block": yaml.safe_dump(block.model_dump(mode="json", exclude_defaults=True), sort_keys=False),
        "weights": weights,
        "made": made.read_text(encoding="utf-8") if made.exists() else "",
        "records": [json.dumps(record, indent=1) for record in judged],
        "curves": _curves(curve) if curve.exists() else [],
    }


def _curves(path: Path) -> list[dict[str, Any]]:
    frame = pd.read_csv(path).dropna(subset="value")
    curves = []
    for key, part in frame.groupby(["split", "name"], sort=True):
        split, name = cast("tuple[str, str]", key)
        step = -(-len(part) // _POINTS)
        kept = part.sort_values("images").iloc[::step]
        curves.append({"name": f"{split}: {name}", "points": kept[["images", "value"]].values.tolist()})
    return curves


def _records(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    frame = pd.read_csv(path)
    return [{k: None if pd.isna(v) else v for k, v in line.items()} for line in frame.to_dict("records")]


def _files(fresh: Mapping[str, Instance], folder: str, ending: str) -> list[Path]:
    made = {f for i in fresh.values() for f in i.outputs.values() if f.startswith(folder) and f.endswith(ending)}
    return [Path(f) for f in sorted(made)]


def _faces(params: Params, fresh: Mapping[str, Instance]) -> dict[str, Any]:
    """The first test faces: sketches, references, right answers, and every row's answers by archive."""
    if not {"faces", "sketches", "references"} <= fresh.keys():
        return {"ids": [], "archives": []}
    ids, size = manifest.ids(Path(paths.MANIFEST), "test"), params.data.size
    shown = ids[: params.report.grid_images]

    def stored(file: str) -> list[str]:
        images = resize.area(manifest.images(Path(file), ids)[: len(shown)], size)
        return [_uri(artifacts.png_bytes(image)) for image in images]

    archives: dict[str, dict[str, Any]] = {}
    for w in rows.coloured_rows(params):
        setting = settings.ARCHIVES[w["setting"]]
        if not _coloured(fresh, w) or w["setting"] not in settings.PICTURED or w["seed"] != params.seeds[0]:
            continue
        archive = archives.setdefault(w["setting"], {"id": w["setting"], "rows": {}})
        answers = by_id(Path(paths.coloured(w)), ids, size)[: len(shown)]
        archive["rows"][f"{w['method']}/{w['stage']}"] = [_uri(artifacts.png_bytes(image)) for image in answers]
        if setting.reference and "reference" not in archive:
            archive["reference"] = stored(f"data/references/{setting.reference}.npy")
            archive["truth"] = stored(_truth(params, w["setting"]))
    return {"ids": shown, "sketch": stored("data/sketches/test.npy"), "archives": list(archives.values())}


def _coloured(fresh: Mapping[str, Instance], w: Wildcards) -> bool:
    return any(i.stage.name == "colorize" and i.wildcards == w for i in fresh.values())


def _truth(params: Params, archive: str) -> str:
    """Of an archive: the true answer where there is one, else the sketch's own face."""
    return paths.TRUE if archive != "same" and "answers" in rows.has(params) else "data/faces/test.npy"


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
