"""What the texts say: their links, the commands in them, the paths and keys that they name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from .conftest import ROOT

TEXTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "reports/*.md", ".github/*.md")
    for path in ROOT.glob(pattern)
)
_FENCE = re.compile(r"^```.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^|(?<=\n\n))(?:(?: {4}|\t).*\n|\n(?= {4}))+", re.MULTILINE)
_LISTED = re.compile(r"\n\n((?: {7,}.*\n)+)")
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"(?<!`)\]\(([^)\s]+)(?: \"[^\"]*\")?\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_ENDS = re.compile(r"&&|\|\||[;|]|\$\(")


def read(path: str | Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """The text without its blocks of code."""
    return _INDENTED.sub("\n", _FENCE.sub("\n", text))


def links(text: str) -> list[str]:
    return _LINK.findall(_INLINE.sub("", prose(text)))


def anchors(text: str) -> set[str]:
    """The names of a text's headings in a link, as GitHub and the site make them."""
    plain = (re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", heading) for heading in _HEADING.findall(_FENCE.sub("", text)))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def inline(text: str) -> list[str]:
    """What stands between backticks, a line break read as a space."""
    return _INLINE.findall(re.sub(r"(?<=\S)\n(?=\S)", " ", prose(text)))


def lines(text: str) -> list[str]:
    """The lines of a text's blocks of code, continued ones as one."""
    blocks = _FENCE.findall(text) + _INDENTED.findall(text) + _LISTED.findall(text)
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def commands(line: str) -> Iterator[list[str]]:
    """The words of each simple command of a shell's line; of what is no such line, none."""
    for part in _ENDS.split(re.sub(r"(^|\s)#.*", "", line)):
        try:
            words = shlex.split(part.rstrip(") "))
        except ValueError:
            continue
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words:
            yield words
