"""Pictures of the pages: `python docs/pictures.py [FOLDER]`, by default into docs/images.

report.png, logbook.png, results.png and page.png show what Snakemake, MLflow, `ssimbad results` and `ssimbad page` make
of the run in this folder, in headless Chromium, in which names of other hosts lead nowhere. The tests of these pages
use it too.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageChops
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions as shown
from selenium.webdriver.support.ui import WebDriverWait

from ssimbad.errors import UserError, in_one_line
from ssimbad.params import tree as parameters
from ssimbad.pipeline import table

IMAGES = Path(__file__).resolve().parent / "images"
PATIENCE = 240  # seconds until a page must show what is looked for, on a machine that does much else
WIDTH, HEIGHT = 1400, 1050  # of a picture, at most
LARGEST = 300_000  # bytes of a picture, at most
RUN = "//*[@role='gridcell' and contains(@col-id, 'Run Name')]"
"""A run's name in MLflow's table."""


def chromium(options: webdriver.ChromeOptions | None = None) -> webdriver.Chrome:
    """Headless, with nothing of its own to say to the world, and no way to say it.

    Raises:
        UserError: Chromium or its driver is not installed.
    """
    options = options or webdriver.ChromeOptions()
    driver, binary = shutil.which("chromedriver"), shutil.which("chromium")
    if not driver or not binary:
        raise UserError("no Chromium here: apt-get install chromium chromium-driver")
    options.binary_location = binary
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-sync"):
        options.add_argument(f"--{flag}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.add_argument("--no-proxy-server")
    options.add_argument("--force-prefers-reduced-motion")
    options.add_argument("--hide-scrollbars")
    options.add_argument("--window-size=1500,1100")
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


def wait(browser: webdriver.Chrome, xpath: str) -> WebElement:
    """The element, once the page shows it."""
    return WebDriverWait(browser, PATIENCE).until(shown.visibility_of_element_located((By.XPATH, xpath)), xpath)


@contextmanager
def serving(
    *command: str, says: str, log: Path, folder: Path = Path(), environment: Mapping[str, str] = os.environ
) -> Iterator[str]:
    """The address that a server names after `says` in its log, while it runs.

    Raises:
        UserError: it ends, or says nothing in time; with the last line of its log.
    """
    with log.open("w") as file:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + PATIENCE
        while not (named := re.search(rf"{says}: (http\S+)", log.read_text())):
            if server.poll() is not None or time.monotonic() > end:
                raise UserError(f"{' '.join(command)} does not serve: {_last_line(log.read_text())}")
            time.sleep(0.2)
        host, port = re.findall(r"//([\w.]+):(\d+)", named[1])[0]
        while not _answers(host, int(port)):  # `ssimbad ui` names its page after a minute, whether or not there is one
            if server.poll() is not None or time.monotonic() > end:
                raise UserError(f"{' '.join(command)} does not answer: {_last_line(log.read_text())}")
            time.sleep(0.2)
        yield named[1]
    finally:
        server.terminate()
        server.wait(timeout=PATIENCE)


def _answers(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def free_port() -> int:
    """One on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def unfolded(browser: webdriver.Chrome, page: str) -> None:
    """MLflow's table of runs, with the stages of the newest execution of the pipeline shown."""
    browser.get(page)
    wait(browser, "//button[@aria-label='Close']").click()  # MLflow's assistant beside the page
    wait(browser, f"{RUN}[.//a[starts-with(normalize-space(), 'snakemake-')]]//button").click()
    wait(browser, f"{RUN}//a[normalize-space() and not(starts-with(normalize-space(), 'snakemake-'))]")


def report(browser: webdriver.Chrome, scratch: Path) -> Image.Image:
    """Snakemake's report: the list of its pictures, beside the rules."""
    made = scratch / "report.html"
    _done("snakemake", "--cores", "1", "--report", str(made), "all")
    browser.get(made.as_uri())
    wait(browser, "//*[contains(text(), 'Pictures')]").click()
    return taken(browser)


def logbook(browser: webdriver.Chrome, scratch: Path) -> Image.Image:
    """MLflow's table of runs."""
    with serving("ssimbad", "ui", "--port", str(free_port()), says="logbook", log=scratch / "ui.log") as address:
        unfolded(browser, address)
        return taken(browser)


def results(browser: webdriver.Chrome, scratch: Path) -> Image.Image:
    """The results page, made anew."""
    _done("ssimbad", "results")
    browser.get(Path("reports/index.html").resolve().as_uri())
    return taken(browser)


def page(browser: webdriver.Chrome, scratch: Path) -> Image.Image:
    """An example, coloured by the weights that come with the package; the slider in the middle."""
    with serving(
        "ssimbad", "page", "--weights", "ssimbad:starter", "--port", "0", says="page", log=scratch / "page.log"
    ) as address:
        browser.get(address)
        wait(browser, "//button[@id='go' and not(@disabled)]")
        wait(browser, "//*[@id='examples']//button[3]").click()
        for place in ("sketch", "references"):
            wait(browser, f"//*[@id='{place}']//small[contains(., 'example-2')]")
        browser.find_element(By.ID, "go").click()
        wait(browser, "//*[@id='status' and .='done'] | //*[@id='error' and .!='']")
        if error := browser.find_element(By.ID, "error").text:
            raise UserError(f"the page colours nothing: {error}")
        browser.execute_script("const s = document.getElementById('slide'); s.value = 50; s.oninput(); scrollTo(0, 0)")
        return taken(browser)


SCENES = (report, logbook, results, page)


def taken(browser: webdriver.Chrome) -> Image.Image:
    """What the page shows once it holds still (charts fade in), without the empty rows at its end."""
    before, end = b"", time.monotonic() + PATIENCE
    while (now := browser.get_screenshot_as_png()) != before and time.monotonic() < end:
        before = now
        time.sleep(1)
    image = Image.open(io.BytesIO(now)).convert("RGB")
    empty = Image.new("RGB", image.size, image.getpixel((image.width - 1, image.height - 1)))
    _, _, _, bottom = ImageChops.difference(image, empty).getbbox() or (0, 0, 0, image.height)
    return image.crop((0, 0, image.width, min(bottom + 16, image.height)))


def small(image: Image.Image) -> bytes:
    """A PNG with a palette of as many colours as `LARGEST` bytes allow.

    Raises:
        UserError: not even sixteen do.
    """
    for colours in (256, 128, 64, 32, 16):
        buffer = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
        if buffer.tell() <= LARGEST:
            return buffer.getvalue()
    raise UserError(f"a picture of {image.width} x {image.height} pixels does not fit into {LARGEST} bytes")


def require_run(p: parameters.Params) -> None:
    """Refuse a folder in which the pipeline has not run with its parameters, or that has no logbook.

    Raises:
        UserError: an output of a stage, or the database, is not there.
    """
    outputs = [output for instance in table.instances(p) for output in instance.outputs.values()]
    if missing := [output for output in outputs if not Path(output).exists()]:
        raise UserError(f"{missing[0]} is not there; first let the pipeline run: snakemake --cores all all")
    if not os.environ.get("MLFLOW_TRACKING_URI") and not Path("mlflow.db").exists():
        raise UserError("mlflow.db is not there; first bring the run into the logbook: ssimbad sync")


def make(folder: Path) -> None:
    """All pictures of the run in the current folder; none is replaced before all are taken.

    Raises:
        UserError: the run, its logbook or Chromium is not there, or a page shows nothing.
    """
    p = parameters.load()
    require_run(p)
    size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    with tempfile.TemporaryDirectory(prefix="ssimbad-pictures-") as scratch, chromium() as browser:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        made = {folder / f"{scene.__name__}.png": small(scene(browser, Path(scratch))) for scene in SCENES}
    folder.mkdir(parents=True, exist_ok=True)
    for path, data in made.items():
        path.write_bytes(data)
        print(f"{path}: {len(data) / 1000:.0f} kB, of a run of the preset {p.preset}")


def _done(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(command)}: {_last_line(done.stderr or done.stdout)}")


def _last_line(text: str) -> str:
    return next(iter(reversed(text.strip().splitlines())), "it says nothing")


if __name__ == "__main__":
    try:
        with in_one_line("make pictures"):
            make(Path(sys.argv[1]) if sys.argv[1:] else IMAGES)
    except WebDriverException as error:
        sys.exit(f"make pictures: Chromium: {' '.join((error.msg or type(error).__name__).split())}")
