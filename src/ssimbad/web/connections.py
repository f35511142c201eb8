"""Connections of the page: not more than there are files for, and none that its other end leaves standing.

uvicorn waits for ever for a request that was begun, and lets in all who come; of each for which the system has no file
left, asyncio writes a traceback, hundreds in a second.
"""

from __future__ import annotations

import asyncio
import errno
import json
import resource
import socket
import time
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from starlette.applications import Starlette
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

BUSY = "too many are waiting; try again in a while"
PATIENCE = 30.0  # seconds for a request or its next part to come, or for some of an answer to be taken
PACE = 16 << 10  # bytes a second that a request comes with, the rest of a refused one too
LOOKS = 20  # times PATIENCE that the rest of a request may take to come when its answer has been given
MOST = 256
"""Connections at once, idle ones too; a browser opens six."""
_SAID = json.dumps({"error": BUSY}).encode()
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
_FULL += b"Content-Length: %d\r\n\r\n%b" % (len(_SAID), _SAID)
_PAUSE = 0.1  # seconds after which the system may have a file again
_BUFFER = 1 << 17  # bytes of an answer that the system takes ahead; of megabytes nobody sees that some are read


def _places() -> int:
    """Connections that may be open: a quarter of the files, since pictures, votes and libraries need some too."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if files == resource.RLIM_INFINITY else min(MOST, files // 4)


class Door(socket.socket):
    """Listens; whoever comes when all places are taken is told so and sent away.

    It counts as it accepts: asyncio accepts all who wait before anything else hears of the first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)  # of those that are let in too
        self._places = _places()
        self._inside: WeakSet[socket.socket] = WeakSet()

    def accept(self) -> tuple[socket.socket, Any]:
        """Raises what asyncio makes nothing of: nobody is let in."""
        try:
            opened, address = super().accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            time.sleep(_PAUSE)  # else it would be tried again at once, and again
            raise BlockingIOError from None  # nobody is there: of one who has gone, newer versions go on to the next
        if sum(one.fileno() >= 0 for one in self._inside) >= self._places:
            with opened, suppress(OSError):
                opened.setblocking(False)
                opened.send(_FULL)
                opened.recv(1 << 16)  # what is left unread would take the answer with it
            raise ConnectionAbortedError
        self._inside.add(opened)
        return opened, address


class Connection(H11Protocol):
    """Broken off when its other end keeps it waiting; not while a request is answered, which may take its time."""

    _due: asyncio.TimerHandle | None = None
    _left = 0  # bytes of answers that were still to be taken at the last look
    _came = 0  # bytes since then
    _looks = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._rest()

    def data_received(self, data: bytes) -> None:
        self._came += len(data)
        super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch()

    def _watch(self) -> None:
        """The clock begins with the waiting; parts of a header do not set it back."""
        answering = self.cycle and not self.cycle.response_complete
        if answering and not self.flow.write_paused:
            self._rest()
        elif not self._due:
            self._due, self._came = self.loop.call_later(PATIENCE, self._look), 0
            self._left = self.transport.get_write_buffer_size()

    def _rest(self) -> None:
        if self._due:
            self._due.cancel()
        self._due, self._looks = None, 0

    def _look(self) -> None:
        left, self._looks = self.transport.get_write_buffer_size(), self._looks + 1
        reads = 0 < left < self._left  # slowly, maybe
        sends = self._came >= PACE * PATIENCE and self._looks < LOOKS  # who was refused hears of it when all is sent
        if reads or sends:
            self._left, self._due, self._came = left, self.loop.call_later(PATIENCE, self._look), 0
        else:
            self.transport.abort()


def config(app: Starlette) -> Config:
    """How the page is served."""
    return Config(
        app,
        loop="asyncio",  # others do not ask the door
        http=Connection,  # which bounds the headers of a request too
        ws="none",
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=2,
    )
