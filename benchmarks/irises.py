"""Whether irises have the reference's colour: a few pixels of a face, which no PSNR tells of.

    python benchmarks/irises.py

Needs a finished run of embedded faces in the current directory. Of each row's answers to another face's reference: how
far the irises' mean colour is from the true answer's, grey taken away from both, as a share of the latter's distance
from grey. 0 is right, 1 is grey.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tabulate import tabulate

from ssimbad.errors import UserError, in_one_line
from ssimbad.faces import embedded, manifest
from ssimbad.metrics.test_set import at_size, by_id
from ssimbad.params import tree as params
from ssimbad.pipeline import paths, rows

PAIRS = Path("data/references/pairing.csv")
ALSO = ("glasses", "earrings", "details")
"""Parts that may have the colour of the eyes; faces with one of them are left out."""
NEAR = 40
"""Of 255, in every channel, from the colour that was drawn: not mixed with ink or white by the reduction."""
RIGHT = 0.5


def main() -> None:
    p = params.load()
    if p.data.source != "embedded":
        raise UserError(f"data.source: {p.data.source}; only embedded faces have known irises")
    ids = manifest.ids(Path(paths.MANIFEST), "test")
    true = at_size(Path(paths.TRUE), p.data.size, ids)
    irises = list(found(p, ids, true))
    columns = ["row", "faces", "mean error", "median", f"below {RIGHT}"]
    lines = [(name, *judged(by_id(path, ids, p.data.size), true, irises)) for name, path in answers(p)]
    print(tabulate(lines, columns, tablefmt="github", floatfmt=("", "", ".2f", ".2f", ".0%")))


def found(p: params.Params, ids: list[str], true: np.ndarray) -> Iterator[np.ndarray]:
    """(S, S) bool for each test face: its irises, none where they cannot be told from other parts."""
    with PAIRS.open(newline="", encoding="utf-8") as file:
        partner = {row["id"]: row["cross"] for row in csv.DictReader(file)}
    last = max(int(name.rpartition("-")[2]) for name in {*ids, *partner.values()})
    drawn = embedded.draw_faces(embedded.face_ids(last), p.embedded.style, p.embedded.seed)
    for id_, image in zip(ids, true, strict=True):
        colour = np.array(list(bytes.fromhex(drawn[partner[id_]][1]["eyes"][1:])))
        alone = all(drawn[id_][0][part] is None for part in ALSO)
        yield (np.abs(image - colour.astype(int)).max(axis=-1) < NEAR) & alone


def judged(images: np.ndarray, true: np.ndarray, irises: list[np.ndarray]) -> tuple[int, float, float, float]:
    """Faces with irises of at least two pixels; mean and median of their errors; share of the right ones."""
    errors = []
    for image, right, where in zip(images, true, irises, strict=True):
        if where.sum() >= 2:
            one, other = coloured(image[where]), coloured(right[where])
            errors.append(np.linalg.norm(one - other) / np.linalg.norm(other))
    if not errors:
        raise UserError("no test face shows irises of two pixels; take more with data.test")
    return len(errors), float(np.mean(errors)), float(np.median(errors)), float(np.mean(np.array(errors) < RIGHT))


def coloured(pixels: np.ndarray) -> np.ndarray:
    """(3,) mean of (N, 3), less its grey."""
    mean = pixels.mean(axis=0)
    return mean - mean.mean()


def answers(p: params.Params) -> Iterator[tuple[str, Path]]:
    """Rows with references of other faces, and where their answers are."""
    for w in rows.judged_rows(p):
        if w["setting"] == "cross-true":
            yield f"{p.methods[w['method']].label}, {w['stage']}, seed {w['seed']}", Path(paths.coloured(w))


if __name__ == "__main__":
    with in_one_line("irises.py"):
        main()
