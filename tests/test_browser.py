"""The logbook in headless Chromium after a miniature run: the runs, a chart and a figure."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import make_folder_house
from .test_end_to_end import ENVIRONMENT, snakemake

pytestmark = pytest.mark.browser
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A finished miniature run."""
    folder = make_folder_house(tmp_path_factory.mktemp("browser") / "house")
    snakemake(folder, "all")
    return folder


@pytest.fixture(scope="module")
def server(house):
    """The UI as `ssimbad ui` starts it; its address and the page it names."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (house / "ui.log").open("w")
    process = subprocess.Popen(
        ["ssimbad", "ui", "--port", str(port)], cwd=house, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        end = time.monotonic() + 90
        while "logbook: http" not in (house / "ui.log").read_text():
            assert process.poll() is None, (house / "ui.log").read_text()
            assert time.monotonic() < end, "the UI did not start"
            time.sleep(0.5)
        text = (house / "ui.log").read_text()
        yield text.split("logbook: ")[1].split()[0]
    finally:
        process.terminate()
        process.wait(timeout=20)


def shown(page: str, folder: Path, name: str) -> tuple[str, Path]:
    """(text of the page after its scripts ran, screenshot)."""
    assert CHROMIUM, "Chromium is not installed: apt-get install chromium"
    picture = folder / f"{name}.png"
    flags = [
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
        *(f"--user-data-dir={folder / 'profile'}", "--window-size=1500,1000", "--virtual-time-budget=150000"),
    ]
    environment = {k: v for k, v in os.environ.items() if k != "DISPLAY"}
    answers = [
        subprocess.run(
            [CHROMIUM, *flags, what, page], env=environment, capture_output=True, text=True, timeout=180, check=True
        )
        for what in (f"--screenshot={picture}", "--dump-dom")
    ]
    return answers[-1].stdout, picture


def test_the_page_shows_the_runs(server, tmp_path):
    text, picture = shown(server, tmp_path, "runs")
    for name in ("tables", "figures", "evaluate-ssimbad-finetune-seed-0-same"):
        assert name in text
    assert np.asarray(Image.open(picture).convert("L")).std() > 5


def run_id(server: str, name: str) -> str:
    """Asked over the REST interface, as any client would."""
    base = server.split("/#")[0]
    body = json.dumps({"experiment_ids": [server.split("/experiments/")[1].split("/")[0]], "max_results": 200}).encode()
    request = urllib.request.Request(
        f"{base}/api/2.0/mlflow/runs/search", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        runs = json.load(answer)["runs"]
    return next(r["info"]["run_id"] for r in runs if r["info"]["run_name"] == name)


def test_a_training_has_a_chart(server, tmp_path):
    run = run_id(server, "pretrain-ssimbad-seed-0")
    page = server.split("/runs?")[0] + f"/runs/{run}/model-metrics?workflowType=machine_learning"
    text, picture = shown(page, tmp_path, "chart")
    assert "train/loss" in text
    assert "<svg" in text
    assert np.asarray(Image.open(picture).convert("L")).std() > 5


def test_a_figure_can_be_seen(server):
    base, run = server.split("/#")[0], run_id(server, "figures")
    with urllib.request.urlopen(
        f"{base}/get-artifact?path=figures/qualitative_same.png&run_uuid={run}", timeout=30
    ) as answer:
        assert answer.read(4) == b"\x89PNG"
