"""What the type checker is told: rooms that are held whole stay so. The check itself is `make lint`."""

from __future__ import annotations

import tomllib

from .conftest import ROOT

HELD = ("samplers", "noise", "networks", "methods", "metrics")


def test_rooms_that_hold_every_rule_have_no_exception():
    ty = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ty"]
    assert ty["rules"] == {"deprecated": "ignore"}
    for part in ty["overrides"]:
        for where in part["include"]:
            assert where.startswith("src/ssimbad/") and where.removeprefix("src/ssimbad/").split("/")[0] not in HELD
            path = ROOT / where.removesuffix("/**")
            assert path.exists(), where


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "src/ssimbad/py.typed").is_file()
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert "py.typed" in tools["setuptools"]["package-data"]["ssimbad"]
