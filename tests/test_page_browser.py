"""The page in headless Chromium: drop, colour, see, download, vote; nothing is asked of any other machine."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from .conftest import ROOT
from .test_browser import shots

pytestmark = pytest.mark.browser

DROP = """
const [id, name, content] = arguments, bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], name, {type: "image/png"}));
document.getElementById(id).dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
"""


HOSTILE = "<img src=x onerror=hacked=1>"


def png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def drawing() -> Image.Image:
    sheet = Image.new("L", (300, 240), 255)
    draw = ImageDraw.Draw(sheet)
    draw.ellipse((60, 20, 240, 220), outline=0, width=4)
    for left in (105, 165):
        draw.ellipse((left, 90, left + 30, 130), outline=0, width=3)
    return sheet


@pytest.fixture
def place(tmp_path, weights):
    """Where the page works: weights of its own, and a study of two sets."""
    for ending in (".safetensors", ".json"):
        shutil.copy(weights.with_suffix(ending), tmp_path / f"{HOSTILE}{ending}")
    sets = []
    for i in range(2):
        for row, colour in (("sketch", "white"), ("reference", "red"), ("ours", "orange"), ("theirs", "navy")):
            Image.new("RGB", (64, 64), colour).save(tmp_path / f"{row}-{i}.png")
        answers = {"ours": f"ours-{i}.png", HOSTILE: f"theirs-{i}.png"}
        sets.append(
            {
                "name": f"{HOSTILE}{i}",
                "sketch": f"sketch-{i}.png",
                "reference": f"reference-{i}.png",
                "answers": answers,
            }
        )
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"per_rater": 2, "sets": sets}))
    command = ["ssimbad", "page", "--weights", f"{HOSTILE}.safetensors", "--study", "study.yaml", "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    log = tmp_path / "log"
    with shots.serving(*command, says="page", log=log, folder=tmp_path, environment=environment) as named:
        yield tmp_path, named


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    with shots.chromium(options) as found:
        yield found


def test_drop_colour_see_download_vote(place, browser):
    folder, address = place
    wait = WebDriverWait(browser, shots.PATIENCE)

    def find(identity):
        return browser.find_element(By.ID, identity)

    def until(what):
        return wait.until(lambda _: what())

    def coloured():
        until(lambda: find("go").is_enabled())
        find("go").click()
        until(lambda: find("status").text == "done" or find("error").text)
        return find("error").text

    browser.get(address)
    until(lambda: len(browser.find_elements(By.CSS_SELECTOR, ".examples img")) == 8)
    until(lambda: find("weights").get_property("value"))
    assert coloured() == "sketch: none is given; drop a picture into its place"
    browser.execute_script(DROP, "sketch", "notes.png", base64.b64encode(b"no picture").decode())
    browser.execute_script(DROP, "references", "red.png", png(Image.new("RGB", (64, 64), (200, 80, 60))))
    until(lambda: browser.find_elements(By.CSS_SELECTOR, "#references img"))
    assert coloured().startswith("sketch: not an image")
    browser.execute_script(DROP, "sketch", "mine.png", png(drawing()))
    until(lambda: "mine.png" in find("sketch").text)
    assert coloured() == ""
    answer = find("after").get_attribute("src")
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.partition(",")[2]))))
    assert seen.shape == (240, 300, 3) and (seen[np.asarray(drawing()) == 0] == 0).all()
    for identity in ("save", "save-layer", "save-json"):
        find(identity).click()
    downloads = folder / "downloads"
    names = ("coloured.png", "layer.png", "coloured.json")
    until(lambda: all((downloads / name).exists() for name in names))
    assert np.array_equal(np.asarray(Image.open(downloads / "coloured.png")), seen)
    assert "--sketch mine.png --reference red.png" in json.loads((downloads / "coloured.json").read_text())["command"]

    browser.find_elements(By.CSS_SELECTOR, ".examples button")[0].click()
    until(lambda: "example-0" in find("sketch").text and "example-0" in find("references").text)
    Select(find("fit")).select_by_value("sketch")
    assert coloured() == ""
    browser.execute_script("document.getElementById('slide').value = 50; document.getElementById('slide').oninput()")
    assert "50%" in find("after").get_attribute("style")
    sketch, answer, slider = (find(identity).rect for identity in ("before", "after", "slide"))
    assert answer == sketch and slider["y"] >= sketch["y"] + sketch["height"], "one upon the other, the slider below"

    browser.find_element(By.CSS_SELECTOR, "[data-tab=many]").click()
    browser.execute_script(DROP, "sketches", f"a.{HOSTILE}.png", png(drawing()))
    until(lambda: HOSTILE in find("sketches").text)
    assert coloured() == ""
    assert browser.find_element(By.CSS_SELECTOR, "#batch a").get_attribute("download") == f"a.{HOSTILE}.png"

    find("study-tab").click()
    for number in range(1, 5):
        until(lambda number=number: find("question").text.startswith(f"{number} of 4:"))
        browser.find_elements(By.CSS_SELECTOR, "#answers button")[0].click()
    until(lambda: find("question").text.startswith("That was all"))
    find("tally").click()
    until(lambda: "2 votes of 1" in find("preferences").text)
    assert HOSTILE in find("preferences").text and browser.execute_script("return window.hacked") is None
    with (folder / "reports/votes.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4

    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert any(one.endswith("/api/colour") for one in sent)
    strangers = [one for one in sent if not one.startswith((address, "data:", "blob:"))]
    assert not strangers
