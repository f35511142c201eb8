"""The logbook in headless Chromium after a miniature run: the runs, a chart and a figure."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time

import pytest
import yaml
from PIL import Image
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By

from .conftest import ROOT, make_folder_house, write_params
from .test_end_to_end import ENVIRONMENT, snakemake

pytestmark = pytest.mark.browser
LABEL = 'SSIMBaD <img src=x onerror="hacked=1">'

spec = importlib.util.spec_from_file_location("shots", ROOT / "docs/pictures.py")
shots = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shots)
wait = shots.wait


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A finished miniature run of one row."""
    folder = make_folder_house(tmp_path_factory.mktemp("browser") / "house")
    tree = yaml.safe_load((folder / "params.yaml").read_text())
    del tree["methods"]["ssimbad"]["finetune"], tree["methods"]["ssimbad"]["colour"]["finetune"]
    tree["methods"]["ssimbad"]["label"] = LABEL
    write_params(folder, tree)
    snakemake(folder, "all")
    return folder


@pytest.fixture(scope="module")
def page(house):
    """The page that `ssimbad ui` names once the server answers."""
    port = shots.free_port()
    command = ("ssimbad", "ui", "--port", str(port))
    with shots.serving(*command, says="logbook", log=house / "ui.log", folder=house, environment=ENVIRONMENT) as named:
        yield named
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the UI has ended and left its server"


@pytest.fixture(scope="module")
def browser():
    with shots.chromium() as found:
        yield found


@pytest.fixture(scope="module")
def runs(browser, page):
    """Addresses of the runs that the page shows, by name, once the pipeline's execution is unfolded."""
    shots.unfolded(browser, page)
    wait(browser, f"{shots.RUN}//a[normalize-space()='faces']")
    links = browser.find_elements(By.XPATH, f"{shots.RUN}//a")
    return {link.text: link.get_attribute("href") for link in links}


def test_the_page_shows_an_execution_and_its_stages(runs):
    assert sum(name.startswith("snakemake-") for name in runs) == 1
    assert {"faces", "pretrain-ssimbad-seed-0", "evaluate-ssimbad-pretrain-seed-0-same", "tables"} < set(runs)


def test_a_training_has_a_chart(browser, runs):
    browser.get(runs["pretrain-ssimbad-seed-0"] + "/model-metrics?workflowType=machine_learning")
    wait(browser, "//*[normalize-space(text())='loss' or normalize-space(text())='train/loss']")
    wait(browser, "//*[local-name()='svg' and contains(@class, 'main-svg')]")


def test_a_figure_can_be_seen(browser, runs):
    browser.get(runs["figures"] + "/artifacts/figures/qualitative_same.png?workflowType=machine_learning")
    figure = wait(browser, "//img[contains(@src, 'qualitative_same') or starts-with(@src, 'blob:')]")
    assert browser.execute_script("return arguments[0].naturalWidth", figure) > 100


def test_the_results_page_sorts_shows_faces_and_leads_to_records(browser, house):
    told = subprocess.run(
        ["ssimbad", "results"], cwd=house, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert "all of it on one page: reports/index.html" in told.stdout
    browser.get_log("browser")  # of pages before
    browser.get((house / "reports/index.html").as_uri())
    rows = browser.find_elements(By.CSS_SELECTOR, "#maintable tbody tr")
    assert len(rows) == 1 and LABEL in rows[0].text and "[" in rows[0].text
    head = browser.find_element(By.CSS_SELECTOR, "#maintable th:nth-child(2)")
    head.click()
    assert head.get_attribute("aria-sort") == "ascending"
    over = browser.find_element(By.ID, "over")
    assert browser.execute_script("return arguments[0].naturalWidth", over) == 16
    cut = browser.find_element(By.ID, "cut")
    browser.execute_script("arguments[0].value = 20; arguments[0].dispatchEvent(new Event('input'))", cut)
    assert "80%" in over.get_attribute("style")
    browser.find_element(By.CSS_SELECTOR, "#maintable td:nth-child(2) a").click()
    run = browser.find_element(By.ID, "run-ssimbad-pretrain")
    assert run.get_attribute("open") and "data/faces/test.npy" in run.text
    browser.find_element(By.CSS_SELECTOR, "#figurelist img").click()
    assert browser.find_element(By.ID, "large").get_attribute("open")
    assert browser.find_element(By.CSS_SELECTOR, "#plot polyline").get_attribute("points")
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    assert browser.execute_script("return window.hacked") is None


def test_the_report_of_snakemake_runs_no_label(browser, house):
    snakemake(house, "--report", "report.html", "all")
    browser.get((house / "report.html").as_uri())
    wait(browser, "//*[contains(text(), 'Tables')]").click()
    time.sleep(2)  # until what is shown first is there
    assert "main.csv" in browser.page_source and browser.execute_script("return window.hacked") is None


def take(house, folder):
    command = [sys.executable, ROOT / "docs/pictures.py", folder]
    return subprocess.run(command, cwd=house, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.mark.timeout(1200)
def test_pictures_are_taken_of_the_run(house, tmp_path):
    done = take(house, tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {f"{scene.__name__}.png" for scene in shots.SCENES}
    assert "preset miniature" in done.stdout
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert image.width == shots.WIDTH and image.height <= shots.HEIGHT, path
            assert len(image.convert("RGB").getcolors(1 << 20)) > 8, f"{path} is empty"
        assert path.stat().st_size <= shots.LARGEST


def test_without_the_results_nothing_is_taken(house, tmp_path):
    table, aside = house / "reports/tables/main.md", house / "aside"
    table.rename(aside)
    try:
        done = take(house, tmp_path / "images")
    finally:
        aside.rename(table)
    assert done.returncode == 1 and not (tmp_path / "images").exists()
    said = "make pictures: reports/tables/main.md is not there; first let the pipeline run: snakemake --cores all all\n"
    assert done.stderr == said


def test_the_pictures_browser_finds_no_other_host(browser):
    with pytest.raises(WebDriverException, match="ERR_NAME_NOT_RESOLVED"):
        browser.get("http://localhost.example/")
