"""The page in the browser: a thin user of the painter, on 127.0.0.1 alone, that asks nothing of any other machine.

One thread colours, whatever the number of tabs; the others wait their turn.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
import shlex
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
import yaml
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ssimbad.colorize import at_hand
from ssimbad.colorize.painter import Painter
from ssimbad.errors import ParameterError, UserError
from ssimbad.web import examples
from ssimbad.web.study import Study

HOST = "127.0.0.1"
MOST_BYTES = 64 << 20
"""Of a request, pictures in base64 among them."""
_WAITING = 16  # requests in the queue beyond which new ones are refused
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data: blob:"
_HEADERS = {"Content-Security-Policy": f"{_POLICY}; connect-src 'self'", "Cache-Control": "no-store"}
_NAMED = ("sketch", "references", "mask", "reference_mask")
_CHOICES = {"sampler": str, "steps": int, "seed": int, "fit": str, "lines": str}


class _Left(Exception):  # noqa: N818 - says what the reader did
    """Nobody waits for the answer any more."""


def _noted(value: float, best: bool) -> str:
    return f"{value:.2f} dB {at_hand.JUDGED}{', the best row here' if best else ''}"


class Studio:
    """The weights at hand, of which the latest used are loaded, and the one thread that colours."""

    def __init__(self, weights: list[Path], measured: Mapping[Path, float | None] | None = None) -> None:
        """`measured`: dB by weights, as `at_hand.found` knows them."""
        self.weights = {path.as_posix(): path for path in weights}
        known = {path.as_posix(): value for path, value in (measured or {}).items() if value is not None}
        self.notes = {name: _noted(value, value == max(known.values())) for name, value in known.items()}
        """By weights: what to know of them when choosing."""
        self.thread = ThreadPoolExecutor(1)
        self.waiting = 0
        self._loaded: tuple[str, Painter] | None = None

    def painter(self, name: object) -> Painter:
        """Raises UserError: there are no such weights, or they do not colour a sketch."""
        if name not in self.weights:
            raise ParameterError(f"weights {name}: not among those at hand; choose one of the list")
        if not self._loaded or self._loaded[0] != name:
            self._loaded = name, Painter(self.weights[name])
        return self._loaded[1]

    def options(self, name: object) -> dict[str, Any]:
        """What can be chosen of weights, for the page."""
        found = self.painter(name).options
        return {
            "size": found.size, "takes": found.takes, "samplers": found.samplers, "sampler": found.sampler,
            "steps": found.steps, "options": found.colour,
        }  # fmt: skip

    async def queued(self, work: Callable[..., Any], *given: Any) -> Any:
        """In the one thread, after those that came before."""
        if self.waiting >= _WAITING:
            raise UserError("too many are waiting; try again in a while")
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.thread, work, *given)
        finally:
            self.waiting -= 1


def app(studio: Studio, study: Study | None = None) -> Starlette:
    """The page and what it asks for."""

    async def page(request: Request) -> Response:
        return HTMLResponse(_page(), headers=_HEADERS)

    async def state(request: Request) -> Response:
        told = {"weights": list(studio.weights), "notes": studio.notes}
        return JSONResponse(told | {"examples": examples.COUNT, "study": study is not None})

    async def options(request: Request) -> Response:
        return JSONResponse(await studio.queued(studio.options, request.query_params.get("weights")))

    async def example(request: Request) -> Response:
        number, what = request.path_params["number"], request.path_params["what"]
        if number >= examples.COUNT or what not in examples.KINDS:
            raise ParameterError(f"example {number} {what}: there is none")
        picture = await asyncio.get_running_loop().run_in_executor(None, examples.picture, number, what)
        return Response(picture, media_type="image/png", headers=_HEADERS)

    async def colour(request: Request) -> Response:
        asked = await _json(request)
        return StreamingResponse(_coloured(studio, asked), media_type="application/x-ndjson", headers=_HEADERS)

    async def sets(request: Request) -> Response:
        return JSONResponse(_of(study).shown(request.query_params.get("rater", "")))

    async def rated(request: Request) -> Response:
        asked = request.query_params
        picture = _of(study).picture(asked.get("rater", ""), asked.get("set", ""), asked.get("place", ""))
        return Response(picture, media_type="image/png", headers=_HEADERS)

    async def vote(request: Request) -> Response:
        asked = await _json(request)
        _of(study).vote(*(str(asked.get(key, "")) for key in ("rater", "set", "question", "place")))
        return JSONResponse({})

    async def preferences(request: Request) -> Response:
        return JSONResponse(_of(study).preferences())

    def told(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status_code=400)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/api/state", state),
            Route("/api/options", options),
            Route("/api/example/{number:int}/{what}", example),
            Route("/api/colour", colour, methods=["POST"]),
            Route("/api/study", sets),
            Route("/api/study/picture", rated),
            Route("/api/study/vote", vote, methods=["POST"]),
            Route("/api/study/preferences", preferences),
        ],
        # Another site's page cannot reach this one under a name of its own.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
        exception_handlers={UserError: told},
    )


async def _coloured(studio: Studio, asked: Mapping[str, Any]) -> AsyncIterator[bytes]:
    """Lines of JSON: {made, calls, picture} after network calls, then the answer, or {error}."""
    loop, lines, left = asyncio.get_running_loop(), asyncio.Queue(), []

    def progress(made: int, calls: int, picture: np.ndarray) -> None:
        if left:
            raise _Left
        told = {"made": made, "calls": calls, "picture": _url(picture)}
        loop.call_soon_threadsafe(lines.put_nowait, told)

    def work() -> dict[str, Any]:
        if left:
            raise _Left
        return _answer(studio, asked, progress)

    async def finish() -> None:
        try:
            told = await studio.queued(work)
        except UserError as error:
            told = {"error": str(error)}
        except _Left:
            told = {}
        except Exception as error:  # a fault of ours is told too, and written where the server was started
            print(f"ssimbad: {type(error).__name__}: {error}", file=sys.stderr)
            told = {"error": "this should not have happened; the terminal of ssimbad page says more"}
        lines.put_nowait(told | {"end": True})

    task = asyncio.create_task(finish())
    try:
        while True:
            told = await lines.get()
            yield (json.dumps(told) + "\n").encode()
            if told.get("end"):
                return
    finally:
        left.append(True)
        with suppress(asyncio.CancelledError):
            await task


def _answer(studio: Studio, asked: Mapping[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """Everything that the page shows and offers of one answer."""
    name = asked.get("weights")
    painter = studio.painter(name)
    pictures = {
        "sketch": _bytes("sketch", asked.get("sketch")),
        "reference": [_bytes("reference", one) for one in asked.get("references") or []],
        "mask": asked.get("mask") and _bytes("mask", asked["mask"]),
        "reference_mask": asked.get("reference_mask") and _bytes("reference_mask", asked["reference_mask"]),
    }
    chosen = {key: _typed(key, kind, asked[key]) for key, kind in _CHOICES.items() if asked.get(key) not in (None, "")}
    options = {key: _value(text) for key, text in dict(asked.get("options") or {}).items()}
    answer = painter.colour(
        **{key: given for key, given in pictures.items() if given is not None}, **chosen,
        options=options, progress=progress,
    )  # fmt: skip
    names = {key: given for key, given in dict(asked.get("names") or {}).items() if key in _NAMED}
    repeat = {"weights": name, **names, **chosen, "options": options, "command": _command(asked, chosen)}
    shown = {"image": answer.image, "layer": answer.layer, "seen": answer.seen, "sketch": answer.drawing.colours}
    return {key: _url(picture) for key, picture in shown.items()} | {"repeat": repeat}


def _command(asked: Mapping[str, Any], chosen: Mapping[str, Any]) -> str:
    """The command line that gives the same answer, of the files by the names that they had."""
    names = dict(asked.get("names") or {})
    words = ["ssimbad", "colorize", "--weights", str(asked.get("weights"))]
    for key in _NAMED:
        given = names.get(key) or []
        for one in [given] if isinstance(given, str) else given:
            words += [f"--{key.removesuffix('s').replace('_', '-')}", str(one)]
    for key, value in chosen.items():
        words += [f"--{key}", str(value)]
    for key, value in dict(asked.get("options") or {}).items():
        words += ["--option", f"{key}={value}"]
    return shlex.join([*words, "--out", "coloured.png"])


def _typed(key: str, kind: type, value: object) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise ParameterError(f"{key} {value}: a whole number is expected") from None


def _value(text: object) -> object:
    """As the command line reads an option."""
    try:
        return yaml.safe_load(text) if isinstance(text, str) else text
    except yaml.YAMLError:
        return text


def _bytes(name: str, url: object) -> bytes:
    """Of a data: address, as the browser makes one of a file."""
    if not isinstance(url, str) or "," not in url:
        raise ParameterError(f"{name}: none is given; drop a picture into its place")
    try:
        return base64.b64decode(url.partition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        raise ParameterError(f"{name}: cannot be read; drop it again") from None


def _url(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=3)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


async def _json(request: Request) -> Mapping[str, Any]:
    """Raises UserError: too large, or no JSON of this page."""
    # A page of another origin cannot send this type without asking first, and is then refused.
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise ParameterError("the request is not this page's; reload it")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise UserError(f"too large: together the pictures may have {MOST_BYTES * 3 // 4 >> 20} MiB")
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise ParameterError("the request cannot be read; reload the page")
    return asked


def _of(study: Study | None) -> Study:
    if study is None:
        raise UserError("no study here; start the page with --study FILE")
    return study


@cache
def _page() -> str:
    return files("ssimbad.web").joinpath("page.html").read_text("utf-8")


def serve(weights: list[Path], study: Path | None, votes: Path, port: int) -> None:
    """Until it is interrupted.

    Raises:
        UserError: no weights, a study that cannot be used, or a port that is taken.
    """
    measured = at_hand.found()
    given = weights or list(measured)
    if not given:
        raise UserError(at_hand.NONE)
    for path in given:
        if not path.exists():
            raise UserError(f"{path}: no such weights; name NAME.safetensors, with NAME.json beside it")
    rating = Study(study, votes) if study else None
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
            listening.listen()  # who reads the address may come at once
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ParameterError(f"--port {port}: cannot be used ({reason}); name another") from None
        print(f"page: http://{HOST}:{listening.getsockname()[1]}/ (end with Ctrl-C)", flush=True)
        config = uvicorn.Config(
            app(Studio(given, measured), rating), log_level="error", access_log=False, timeout_graceful_shutdown=2
        )
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
