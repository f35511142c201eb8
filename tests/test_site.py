"""The site's pages: one for each stage, kind of method and public module, all found, all links holding."""

from __future__ import annotations

import importlib.util
import posixpath

import pytest
import yaml

from ssimbad.methods import registry
from ssimbad.pipeline import table

from .conftest import ROOT
from .texts import links, read

spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs/site.py")
site = importlib.util.module_from_spec(spec)
spec.loader.exec_module(site)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return site.pages()


def flat(nav) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [name for part in (nav.values() if isinstance(nav, dict) else nav) for name in flat(part)]


def test_what_the_registries_have_has_a_page_that_tells_it(pages):
    for stage in table.STAGES:
        told, example = pages[f"stages/{stage.name}.md"], site.example(stage)
        assert stage.run in told
        if example is None:  # of parameters that no preset has
            assert stage.name in ("fetch", "sweep", "face_shard", "sketch_shard")
            continue
        _, instance = example
        assert instance.command in told
        assert all(f"`{name}`" in told for name in [*instance.params, *instance.files, *instance.outputs.values()])
    for kind in registry.kinds():
        told = pages[f"kinds/{kind}.md"]
        fields = [*registry.get(kind).Config.model_fields, *registry.get(kind).ColourOptions.model_fields]
        assert all(f"`{name}`" in told for name in fields)
    assert "def euler(" in pages["api/ssimbad.samplers.ode.md"]


def test_every_page_is_found_but_those_that_only_show_a_file(pages):
    named = flat(site.nav(list(pages)))
    assert len(named) == len(set(named))
    assert set(named) == {name for name in pages if not name.startswith("files/")}


def test_every_link_between_pages_holds(pages):
    images = {f"images/{path.name}" for path in ROOT.glob("docs/images/*")}
    for name, text in pages.items():
        if name.startswith("files/"):
            continue
        for link in links(text):
            if not link.startswith(("https://", "#")):
                target = posixpath.normpath(posixpath.join(posixpath.dirname(name), link.partition("#")[0]))
                assert target in pages or target in images, f"{name}: {link}"


def test_nothing_comes_from_elsewhere():
    config = yaml.safe_load(read("mkdocs.yml"))
    assert config["theme"]["font"] is False
    assert config["plugins"] == ["search"]
    assert not {"extra_javascript", "extra_css"} & set(config)


def test_text_means_nothing_to_markdown():
    assert site.plain("a*b_c [x] <name> | `d_e|f`") == r"a\*b\_c \[x\] &lt;name> \| `d_e&#124;f`"
