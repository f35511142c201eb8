"""The page in the browser: a thin user of the painter, on 127.0.0.1 alone, that asks nothing of any other machine.

One sketch is coloured at a time, whatever the number of tabs; the others wait their turn. What waits is counted, in
requests and in bytes, the answers among them: whoever comes when all places are taken is told so.
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
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing, contextmanager, suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import uvicorn
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from ssimbad import strict_yaml
from ssimbad.colorize import at_hand, load
from ssimbad.colorize.painter import Painter
from ssimbad.errors import ParameterError, UserError
from ssimbad.web import examples
from ssimbad.web.connections import BUSY, PACE, PATIENCE, Door, config
from ssimbad.web.study import Study

HOST = "127.0.0.1"
MOST_BYTES = 64 << 20
"""Of a request, pictures in base64 among them."""
MOST_PIXELS = 40_000_000
"""Of a picture: one of 100 million, which the command line takes, needs several GB."""
WAITING = 16  # requests that are read, wait or are answered, beyond which new ones are refused
HELD = 4 * MOST_BYTES  # of all of these together
_SMALL = 64 << 10  # bytes of a request without pictures
_SIGNS = 10_000  # brackets and commas of a request: 64 MiB of them would be gigabytes of Python's objects
_PART = 64 << 10  # bytes of an answer that are handed out at once
_AHEAD = 8  # pictures of a sketch on its way that wait for a slow reader; more are left out
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data: blob:"
_HEADERS = {"Content-Security-Policy": f"{_POLICY}; connect-src 'self'", "Cache-Control": "no-store"}
_NAMED = ("sketch", "references", "mask", "reference_mask")
_CHOICES = {"sampler": str, "steps": int, "seed": int, "fit": str, "lines": str}
_FAULT = "this should not have happened; the terminal of ssimbad page says more"


class _Left(Exception):  # noqa: N818 - says what the reader did
    """Nobody waits for the answer any more."""


class _Refused(UserError):  # noqa: N818 - says what was done with the request
    """A request that is not taken, with the status of HTTP that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


_Text = Annotated[str, Field(max_length=1000)]
_Number = _Text | int | float


class _Form(BaseModel):
    model_config = ConfigDict(strict=True)


class Asked(_Form):
    """What the page sends to have a sketch coloured: pictures as data: addresses, the rest as it was typed."""

    weights: _Text | None = None
    sketch: str | None = None
    references: list[str] = []
    mask: str | None = None
    reference_mask: str | None = None
    sampler: _Text | None = None
    steps: _Number | None = None
    seed: _Number | None = None
    fit: _Text | None = None
    lines: _Text | None = None
    options: dict[_Text, _Number | None] = {}
    names: dict[_Text, _Text | list[_Text]] = {}


class _Vote(_Form):
    rater: _Text = ""
    set: _Text = ""
    question: _Text = ""
    place: _Text = ""


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
        if load.STARTER in weights:
            self.notes[load.STARTER.as_posix()] = "comes with ssimbad"
        self.thread = ThreadPoolExecutor(1)
        self.turn = asyncio.Lock()
        """Whose it is may use the thread."""
        self._seated = self._held = 0
        self._loaded: tuple[str, Painter] | None = None
        self._options: dict[str, dict[str, Any]] = {}

    def require(self, name: object) -> str:
        """The name. Raises ParameterError: there are no such weights."""
        if not isinstance(name, str) or name not in self.weights:
            raise ParameterError(f"weights {name!s:.100}: not among those at hand; choose one of the list")
        return name

    def painter(self, asked: object) -> Painter:
        """In the thread. Raises UserError: there are no such weights, or they do not colour a sketch."""
        name, loaded = self.require(asked), self._loaded
        if not loaded or loaded[0] != name:
            self._loaded = loaded = name, Painter(self.weights[name], most_pixels=MOST_PIXELS)
        return loaded[1]

    async def options(self, name: str) -> dict[str, Any]:
        """What can be chosen of weights, for the page; once known, it waits for nobody."""
        self.require(name)
        if name not in self._options:
            async with self.turn:
                painter = await asyncio.get_running_loop().run_in_executor(self.thread, self.painter, name)
            found = painter.options
            self._options[name] = {
                "size": found.size, "takes": found.takes, "samplers": found.samplers, "sampler": found.sampler,
                "steps": found.steps, "options": found.colour,
            }  # fmt: skip
        return self._options[name]

    @contextmanager
    def seat(self) -> Iterator[Callable[[int], int]]:
        """A place for one request; what it yields is told how many more bytes that holds, and says how many in all.

        Raises:
            _Refused: all are taken, or too many bytes are held already.
        """
        if self._seated >= WAITING:
            raise _Refused(503, BUSY)
        taken = 0

        def take(count: int) -> int:
            nonlocal taken
            if count > 0 and self._held + count > HELD:
                raise _Refused(503, BUSY)
            self._held, taken = self._held + count, taken + count
            return taken

        self._seated += 1
        try:
            yield take
        finally:
            self._seated, self._held = self._seated - 1, self._held - taken


def app(studio: Studio, study: Study | None = None) -> Starlette:
    """The page and what it asks for."""

    async def page(request: Request) -> Response:
        return HTMLResponse(_page(), headers=_HEADERS)

    async def state(request: Request) -> Response:
        told = {"weights": list(studio.weights), "notes": studio.notes}
        return JSONResponse(told | {"examples": examples.COUNT, "study": study is not None})

    async def options(request: Request) -> Response:
        return JSONResponse(await studio.options(request.query_params.get("weights", "")))

    async def example(request: Request) -> Response:
        number, what = request.path_params["number"], request.path_params["what"]
        if number not in map(str, range(examples.COUNT)) or what not in examples.KINDS:
            raise ParameterError(f"example {number:.20} {what:.20}: there is none")
        picture = await asyncio.get_running_loop().run_in_executor(None, examples.picture, int(number), what)
        return Response(picture, media_type="image/png", headers=_HEADERS)

    async def colour(request: Request) -> Response:
        with ExitStack() as place:
            take = place.enter_context(studio.seat())
            asked = await _read(request, Asked, MOST_BYTES, take)
            pictures = _pictures(asked)
            studio.require(asked.weights)
            return Streamed(_coloured(studio, asked, pictures, take), place.pop_all())

    async def sets(request: Request) -> Response:
        return JSONResponse(_of(study).shown(request.query_params.get("rater", "")))

    async def rated(request: Request) -> Response:
        asked = request.query_params
        picture = _of(study).picture(asked.get("rater", ""), asked.get("set", ""), asked.get("place", ""))
        return Response(picture, media_type="image/png", headers=_HEADERS)

    async def vote(request: Request) -> Response:
        asked = await _read(request, _Vote, _SMALL)
        given = (asked.rater, asked.set, asked.question, asked.place)
        # Apart, since the disk or another page may keep it waiting, and those who colour must not wait for that.
        await asyncio.get_running_loop().run_in_executor(None, _of(study).vote, *given)
        return JSONResponse({})

    async def preferences(request: Request) -> Response:
        return JSONResponse(_of(study).preferences())

    def told(request: Request, error: Exception) -> Response:
        status = error.status if isinstance(error, _Refused) else 400
        return JSONResponse({"error": str(error)}, status_code=status)

    def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=400)  # which nobody reads

    def fault(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": _FAULT}, status_code=500)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/api/state", state),
            Route("/api/options", options),
            Route("/api/example/{number}/{what}", example),
            Route("/api/colour", colour, methods=["POST"]),
            Route("/api/study", sets),
            Route("/api/study/picture", rated),
            Route("/api/study/vote", vote, methods=["POST"]),
            Route("/api/study/preferences", preferences),
        ],
        # Another site's page cannot reach this one under a name of its own.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
        exception_handlers={UserError: told, ClientDisconnect: gone, Exception: fault},
    )


class Streamed(StreamingResponse):
    """Lines as they are made; at its end, whatever that is, the place is given back."""

    def __init__(self, lines: AsyncGenerator[bytes], place: ExitStack) -> None:
        super().__init__(lines, media_type="application/x-ndjson", headers=_HEADERS)
        self._lines, self._place = lines, place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def heard(message: Message) -> None:
            await send(message)
            await asyncio.sleep(0)  # the loop learns that he has gone before more is written to him

        with self._place:
            async with aclosing(self._lines):
                await super().__call__(scope, receive, heard)


async def _coloured(
    studio: Studio, asked: Asked, pictures: dict[str, Any], take: Callable[[int], int]
) -> AsyncGenerator[bytes]:
    """Lines of JSON: {made, calls, picture} after network calls, then the answer, or {error}.

    When it is made the next sketch's turn begins, however slowly it is read; where it is too much beside all that is
    held, when it is read. `take`: of `Studio.seat`; the answer is held in place of the request.
    """
    loop, lines, left = asyncio.get_running_loop(), asyncio.Queue(), threading.Event()

    def put(line: bytes, last: bool) -> None:
        if left.is_set():
            return
        if last:
            pictures.clear()
            with suppress(_Refused):
                take(len(line) - take(0))
                turn.close()
        if last or lines.qsize() < _AHEAD:
            lines.put_nowait((line, last))

    def tell(told: Mapping[str, Any], last: bool = False) -> None:
        loop.call_soon_threadsafe(put, f"{json.dumps(told)}\n".encode(), last)

    def progress(made: int, calls: int, picture: np.ndarray) -> None:
        if left.is_set():
            raise _Left
        tell({"made": made, "calls": calls, "picture": _url(picture)})

    def work() -> None:
        given = dict(pictures)
        try:
            if left.is_set():
                raise _Left
            told = answer(studio, asked, given, progress)
        except UserError as error:
            told = {"error": str(error)}
        except _Left:
            told = {}
        except Exception as error:  # a fault of ours is told too, and written where the server was started
            print(f"ssimbad: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            told = {"error": _FAULT}
        tell(told | {"end": True}, last=True)

    await studio.turn.acquire()
    with ExitStack() as turn:
        turn.callback(studio.turn.release)
        loop.run_in_executor(studio.thread, work)
        try:
            last = False
            while not last:
                line, last = await lines.get()
                for at in range(0, len(line), _PART):
                    yield line[at : at + _PART]
        finally:
            left.set()
            pictures.clear()  # `work` may wait on for the thread, and many after it


def _pictures(asked: Asked) -> dict[str, Any]:
    """The arguments of `Painter.colour` that are files' bytes. Raises ParameterError: one is missing or none."""
    found: dict[str, Any] = {"sketch": _bytes("sketch", asked.sketch)}
    found["reference"] = [_bytes("reference", one) for one in asked.references]
    for name in ("mask", "reference_mask"):
        if given := getattr(asked, name):
            found[name] = _bytes(name, given)
    asked.sketch = asked.mask = asked.reference_mask = None  # held once is enough
    asked.references = []
    return found


def answer(studio: Studio, asked: Asked, pictures: Mapping[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """Everything that the page shows and offers of one answer: pictures as data: addresses, and how to repeat it.

    Args:
        pictures: arguments of `Painter.colour`; `progress`: called by it.

    Raises:
        UserError: what was asked for cannot be had.
    """
    told = {key: getattr(asked, key) for key in _CHOICES}
    chosen = {key: _typed(key, _CHOICES[key], value) for key, value in told.items() if value not in (None, "")}
    options = {key: _value(key, text) for key, text in asked.options.items()}
    answer = studio.painter(asked.weights).colour(**pictures, **chosen, options=options, progress=progress)
    names = {key: given for key, given in asked.names.items() if key in _NAMED}
    repeat = {"weights": asked.weights, **names, **chosen, "options": options, "command": _command(asked, chosen)}
    shown = {"image": answer.image, "layer": answer.layer, "seen": answer.seen, "sketch": answer.drawing.colours}
    return {key: _url(picture) for key, picture in shown.items()} | {"repeat": repeat}


def _command(asked: Asked, chosen: Mapping[str, Any]) -> str:
    """The command line that gives the same answer, of the files by the names that they had."""
    words = ["ssimbad", "colorize", "--weights", str(asked.weights)]
    for key in _NAMED:
        given = asked.names.get(key, [])
        for one in [given] if isinstance(given, str) else given:
            words += [f"--{key.removesuffix('s').replace('_', '-')}", str(one)]
    for key, value in chosen.items():
        words += [f"--{key}", str(value)]
    for key, value in asked.options.items():
        words += ["--option", f"{key}={value}"]
    return shlex.join([*words, "--out", "coloured.png"])


def _typed(key: str, kind: type, value: object) -> Any:
    try:
        return kind(value)
    except (OverflowError, ValueError):
        raise ParameterError(f"{key} {value}: a whole number is expected") from None


def _value(key: str, text: object) -> object:
    """As the command line reads an option, and no more values than a person writes."""
    try:
        return strict_yaml.parse(text, key) if isinstance(text, str) else text
    except ParameterError:
        return text


def _bytes(name: str, url: str | None) -> bytes:
    """Of a data: address, as the browser makes one of a file."""
    if url is None or "," not in url:
        raise ParameterError(f"{name}: none is given; drop a picture into its place")
    try:
        return base64.b64decode(url.partition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        raise ParameterError(f"{name}: cannot be read; drop it again") from None


def _url(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=3)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


_Any = TypeVar("_Any", bound=_Form)


async def _read(
    request: Request, form: type[_Any], most: int, take: Callable[[int], object] = lambda count: None
) -> _Any:
    """What a request of this page says.

    Args:
        most: bytes.
        take: told of the bytes of each part before it is kept.

    Raises:
        UserError: not of this page, too large, too slow, or none of the form.
    """
    # A page of another origin cannot send this type without asking first, and is then refused.
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise ParameterError("the request is not this page's; reload it")
    large = _Refused(413, f"too large: together the pictures may have {MOST_BYTES * 3 // 4 >> 20} MiB")
    if int(request.headers.get("content-length", 0)) > most:
        raise large
    body, parts = bytearray(), aiter(request.stream())
    now = asyncio.get_running_loop().time
    begun = now()
    try:
        # Whoever sends a byte now and then would keep a place for ever.
        while part := await asyncio.wait_for(
            anext(parts, b""), min(PATIENCE, begun + PATIENCE + len(body) / PACE - now())
        ):
            if len(body) + len(part) > most:
                raise large
            take(len(part))
            body += part
    except TimeoutError:
        slow = f"nothing more came for {PATIENCE:.0f} seconds, or less than {PACE >> 10} KiB a second; send it again"
        raise _Refused(408, slow) from None
    return _parsed(body, form)


def _parsed(body: bytearray, form: type[_Any]) -> _Any:
    """Raises ParameterError: it is none of the form."""
    fault = "the request cannot be read; reload the page"
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > _SIGNS:
        raise ParameterError(fault)
    try:
        return form.model_validate(json.loads(body))
    except ValidationError as error:
        key = next(iter(error.errors()[0]["loc"]), "the request")
        raise ParameterError(f"{key}: not as this page sends it; reload the page") from None
    except (ValueError, RecursionError):
        raise ParameterError(fault) from None


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
        UserError: no such weights, a study that cannot be used, or a port that is taken.
    """
    measured = at_hand.found()
    given = weights or list(measured)
    for path in given:
        if not load.files(path)[0].exists():
            raise UserError(f"{path}: no such weights; name NAME.safetensors, with NAME.json beside it")
    rating = Study(study, votes) if study else None
    with Door() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
            listening.listen()  # who opens the address as soon as it is told waits and is not turned away
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ParameterError(f"--port {port}: cannot be used ({reason}); name another") from None
        print(f"page: http://{HOST}:{listening.getsockname()[1]}/ (end with Ctrl-C)", flush=True)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config(app(Studio(given, measured), rating))).run(sockets=[listening])
