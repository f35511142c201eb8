"""Stage raw: renders the embedded faces."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ssimbad import artifacts
from ssimbad.errors import there
from ssimbad.faces.embedded import Palette, Shape, credit, draw_faces, face_ids, render, render_landscape
from ssimbad.faces.splits import split_ids
from ssimbad.params.tree import Params
from ssimbad.runtime.job import Job

_Drawing = tuple[str, Shape, Palette, int]


def run(params: Params, inputs: dict, outputs: dict[str, Path], job: Job) -> None:
    """Write the rendered faces, their shapes and palettes.

    outputs: `zip` (`<id>.png`, and CREDITS.txt for the artwork), `shapes` ({id: {"shape", "palette"}}) and, of faces
    before scenes, `landscapes` (`<id>.png` of test faces: the scene alone).

    Raises:
        UserError: `data.train` is null, or more faces are asked than there are shapes.
    """
    data, style, size = params.data, params.embedded.style, params.embedded.size
    ids = face_ids(there(data.train) + data.val + data.test)
    faces = draw_faces(ids, style, params.embedded.seed, params.embedded.background)
    with _rendering([(style, *faces[id_], size) for id_ in ids], job) as pngs:
        rendered = ((f"{id_}.png", next(pngs)) for id_ in ids)
        artifacts.write_zip(outputs["zip"], _credited(rendered, style))
    if "landscapes" in outputs:
        tests = split_ids(ids, data.train, data.val, data.test, data.seed)["test"]
        alone = ((f"{id_}.png", render_landscape(*faces[id_], size)) for id_ in tests)
        artifacts.write_zip(outputs["landscapes"], alone)
    artifacts.write_json(outputs["shapes"], {i: {"shape": s, "palette": p} for i, (s, p) in faces.items()})
    job.say(f"raw: {len(ids)} faces -> {outputs['zip']}")


def _credited(faces: Iterator[tuple[str, bytes]], style: str) -> Iterator[tuple[str, bytes]]:
    yield from faces
    yield "CREDITS.txt", credit(style).encode()


@contextmanager
def _rendering(drawings: list[_Drawing], job: Job) -> Iterator[Iterator[bytes]]:
    """PNGs in the order of the drawings, from `job.threads` processes; the same for any number."""
    with ExitStack() as stack:
        bar = stack.enter_context(job.progress(len(drawings), "faces"))
        if job.threads > 1:
            # A forked child would inherit whatever locks other threads of this process hold at that moment.
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(job.threads, mp_context=context)
            # Not `with pool`: after an error that would first render all that is still waiting.
            stack.callback(pool.shutdown, cancel_futures=True)
            pngs = pool.map(_render, drawings, chunksize=16)
        else:
            pngs = map(_render, drawings)
        yield _counted(pngs, bar.update)


def _render(drawing: _Drawing) -> bytes:
    return render(*drawing)


def _counted(pngs: Iterable[bytes], update: Callable[[int], object]) -> Iterator[bytes]:
    for png in pngs:
        update(1)
        yield png
