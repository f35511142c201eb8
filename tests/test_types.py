"""What the type checker is told. The check itself is `make lint`."""

from __future__ import annotations

import re
import tomllib

from .conftest import ROOT


def test_every_room_holds_every_rule():
    ty = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ty"]
    assert ty == {"src": {"include": ["src"]}, "rules": {"deprecated": "ignore"}}


def test_what_is_passed_over_is_named_and_has_a_reason():
    reasoned = re.compile(r"# ty: ignore\[[a-z-]+\] \w|^ *# .*\n.*# ty: ignore\[[a-z-]+\]$", re.MULTILINE)
    for path in sorted((ROOT / "src").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert "type: ignore" not in text and text.count("ty: ignore") == len(reasoned.findall(text)), path


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "src/ssimbad/py.typed").is_file()
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tools["hatch"]["build"]["targets"]["wheel"]["packages"] == ["src/ssimbad"]  # with all that lies in it
