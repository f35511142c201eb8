"""The page of all results: one file that needs nothing else, on which no name becomes markup."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import pytest

from ssimbad.errors import UserError
from ssimbad.params.tree import Params
from ssimbad.pipeline import records
from ssimbad.reporting import page, summary

from .conftest import miniature

COLOURING = files("ssimbad.web").joinpath("page.html").read_text("utf-8")
HOSTILE = "</script><script>alert(1)</script><!-- & <img src=x onerror=alert(2)> \u2028 ' \" `${x}`"


def embedded(html: str) -> dict:
    """The data of a page, as its script reads them."""
    return json.loads(re.search(r"^const data = (.*);$", html, re.MULTILINE)[1])


def test_data_come_back_and_never_end_the_script():
    data = {"notes": [HOSTILE], "rows": [{"id": "a/b", "label": HOSTILE}], "main": []}
    html = page.filled(data)
    assert embedded(html) == data
    bare = page.filled({"notes": [], "rows": [], "main": []})
    for mark in ("<script", "</script", "<!--", "<img"):
        assert html.count(mark) == bare.count(mark)


def test_no_two_rows_have_one_name(house):
    """A method's stages are told apart, also those of methods that nobody has thought of."""
    tree = miniature("demo-all")
    html = page.write(Params.model_validate(tree), [], {}, []).read_text(encoding="utf-8")
    names = [row["label"] for row in embedded(html)["rows"]]
    assert len(names) == len(set(names)) > 20
    assert {"SSIMBaD, pretrained", "SSIMBaD, finetuned"} <= set(names)


def test_a_table_that_a_run_takes_away_meanwhile_is_named(house, monkeypatch):
    p = Params.model_validate(miniature("demo"))
    summary.MAIN.parent.mkdir(parents=True)
    summary.MAIN.write_text("| PSNR |\n")

    def survey(params):
        summary.MAIN.unlink()
        return {i.name: "not made yet" for i in summary.instances(params)}

    monkeypatch.setattr(records, "survey", survey)
    with pytest.raises(UserError, match=r"^reports/tables/main\.md: went away while it was read"):
        summary.show(p)


def test_the_page_loads_nothing_from_anywhere():
    html = page.filled({})
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?(https?:)?//", html)
    assert "default-src 'none'" in html


@pytest.mark.parametrize("html", [page.filled({}), COLOURING], ids=["results", "page"])
def test_scripts_set_texts_and_never_markup(html):
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "srcdoc", "eval(", "Function("):
        assert way not in html
