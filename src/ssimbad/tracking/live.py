"""Events straight to a tracking server, where one answers; the spool stays the record that counts."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

from ssimbad.tracking.spool import Event, Sink

_PATIENCE = 2.0


def sinks(spool_id: str) -> tuple[Sink, ...]:
    """A sink for the server that MLFLOW_TRACKING_URI names, if it is one and answers; otherwise none.

    A database file is left to the import on the head node: many jobs writing to one file is what breaks it.
    """
    where = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not where.startswith(("http://", "https://")) or not _answers(where):
        return ()
    return (_Server(where, spool_id),)


def _answers(where: str) -> bool:
    try:
        parts = urlsplit(where)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=_PATIENCE):
            return True
    except (OSError, ValueError):  # a port that is no number; `ssimbad sync` will name it
        return False


class _Server:
    """Keeps the run's count of events on the server, so that the import adds only what never arrived."""

    def __init__(self, where: str, spool_id: str) -> None:
        self._where, self._spool_id, self._count = where, spool_id, 0

    def __call__(self, event: Event) -> None:
        self._count += 1
        if event["event"] == "start":
            from ssimbad.tracking.store import Store

            self._store = Store(self._where)
            self._run = self._store.child(event, self._spool_id)
            return
        self._store.add(self._run, [event])
        self._store.client.set_tag(self._run, "events", str(self._count))
