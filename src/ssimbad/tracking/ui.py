"""The logbook in a browser, on this machine only."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import webbrowser

from ssimbad.errors import UserError
from ssimbad.runtime import interrupt
from ssimbad.tracking import store

_START = 60.0  # seconds until the server must answer


def serve(port: int) -> int:
    """Start MLflow's UI on 127.0.0.1 and name the page of this project's runs; returns the server's exit status.

    Raises:
        UserError: the port is taken, or the store is a server with a UI of its own.
    """
    where = store.uri()
    if where.startswith(("http://", "https://")):
        raise UserError(f"MLFLOW_TRACKING_URI={where}: this server has its own pages; open it in a browser")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise UserError(f"port {port} is taken; choose another: ssimbad ui --port {port + 1}")
    experiment = store.Store(where).experiment
    base = f"http://127.0.0.1:{port}"
    page = f"{base}/#/experiments/{experiment}/runs?workflowType=machine_learning"
    interrupt.install()  # SIGTERM then also ends the server below
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "ui"),
            *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        ],
        env={**os.environ, "MLFLOW_BACKEND_STORE_URI": where},  # all users of the machine see a command's arguments
    )
    threading.Thread(target=_announce, args=(base, page), daemon=True).start()
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        server.terminate()
        server.wait(timeout=15)


def _announce(base: str, page: str) -> None:
    end = time.monotonic() + _START
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{base}/health", timeout=2):
                break
        except OSError:
            time.sleep(0.5)
    print(f"\nlogbook: {page}\n(Ctrl-C ends it)", flush=True)
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(page)
