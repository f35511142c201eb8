"""The logbook in headless Chromium after a miniature run: the runs, a chart and a figure."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as shown
from selenium.webdriver.support.ui import WebDriverWait

from .conftest import make_folder_house, write_params
from .test_end_to_end import ENVIRONMENT, snakemake

pytestmark = pytest.mark.browser
LABEL = 'SSIMBaD <img src=x onerror="hacked=1">'
PATIENCE = 120  # seconds until a page must show what is looked for


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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = house / "ui.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            ["ssimbad", "ui", "--port", str(port)], cwd=house, env=ENVIRONMENT, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        end = time.monotonic() + PATIENCE
        while not (named := re.search(r"logbook: (http\S+)", log.read_text())):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, "the UI did not start"
            time.sleep(0.5)
        yield named[1]
    finally:
        server.terminate()
        server.wait(timeout=20)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, "the UI has ended and left its server"


def chromium(options: webdriver.ChromeOptions) -> webdriver.Chrome:
    """Headless, with nothing of its own to say to the world."""
    driver, binary = shutil.which("chromedriver"), shutil.which("chromium")
    assert driver and binary, "apt-get install chromium chromium-driver"
    options.binary_location = binary
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-sync"):
        options.add_argument(f"--{flag}")
    options.add_argument("--window-size=1500,1100")
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


@pytest.fixture(scope="module")
def browser():
    with chromium(webdriver.ChromeOptions()) as found:
        yield found


def wait(browser, xpath: str):
    """The element, once the page shows it."""
    return WebDriverWait(browser, PATIENCE).until(shown.visibility_of_element_located((By.XPATH, xpath)), xpath)


def picture(browser, name: str) -> None:
    """Keep a screenshot where SSIMBAD_SCREENSHOTS says so: those of the documentation are made that way."""
    if folder := os.environ.get("SSIMBAD_SCREENSHOTS"):
        time.sleep(2)  # charts fade in
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


RUN = "//*[@role='gridcell' and contains(@col-id, 'Run Name')]"


@pytest.fixture(scope="module")
def runs(browser, page):
    """Addresses of the runs that the page shows, by name, once the pipeline's execution is unfolded."""
    browser.get(page)
    wait(browser, "//button[@aria-label='Close']").click()  # MLflow's assistant beside the page
    wait(browser, f"{RUN}[.//a[starts-with(normalize-space(), 'snakemake-')]]//button").click()
    wait(browser, f"{RUN}//a[normalize-space()='faces']")
    picture(browser, "runs")
    links = browser.find_elements(By.XPATH, f"{RUN}//a")
    return {link.text: link.get_attribute("href") for link in links}


def test_the_page_shows_an_execution_and_its_stages(runs):
    assert sum(name.startswith("snakemake-") for name in runs) == 1
    assert {"faces", "pretrain-ssimbad-seed-0", "evaluate-ssimbad-pretrain-seed-0-same", "tables"} < set(runs)


def test_a_training_has_a_chart(browser, runs):
    browser.get(runs["pretrain-ssimbad-seed-0"] + "/model-metrics?workflowType=machine_learning")
    wait(browser, "//*[normalize-space(text())='loss' or normalize-space(text())='train/loss']")
    wait(browser, "//*[local-name()='svg' and contains(@class, 'main-svg')]")
    picture(browser, "chart")


def test_a_figure_can_be_seen(browser, runs):
    browser.get(runs["figures"] + "/artifacts/figures/qualitative_same.png?workflowType=machine_learning")
    figure = wait(browser, "//img[contains(@src, 'qualitative_same') or starts-with(@src, 'blob:')]")
    assert browser.execute_script("return arguments[0].naturalWidth", figure) > 100
    picture(browser, "figure")


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
