"""What of other packages is here: the names of their distributions, and which extra brings one that is missing."""

from __future__ import annotations

import re
from importlib import metadata

DISTRIBUTIONS = {
    "PIL": ["pillow"],
    "dicebear": ["dicebear-core", "dicebear-styles"],
    "skimage": ["scikit-image"],
}
"""By module: distributions whose names are not those of their modules."""
_OF_EXTRA = re.compile(r"([\w.-]+).*;.*\bextra == ['\"]([\w-]+)['\"]")


def remedy(module: str | None) -> str | None:
    """What to do where an import has found no `module`; None: it is none that an extra of ours brings."""
    if not module:
        return None
    top = module.partition(".")[0]
    wanted = {_normal(name) for name in DISTRIBUTIONS.get(top, [top])}
    for extra in ("pipeline", "page"):  # the larger one first: what both bring is missing where a stage asks for it
        if wanted & _brought(extra):
            return f"{top} is not installed; `pip install 'ssimbad[{extra}]'` brings it, in a checkout `make install`"
    return None


def complete(extra: str) -> bool:
    """Whether all is here that an extra brings."""
    return _brought(extra) <= {_normal(found.name) for found in metadata.distributions() if found.name}


def _brought(extra: str) -> set[str]:
    """Names of distributions. Of a package that was never installed, a bare folder of sources, nothing is known."""
    try:
        asked = metadata.requires("ssimbad") or []
    except metadata.PackageNotFoundError:
        return set()
    named = [found.group(1, 2) for line in asked if (found := _OF_EXTRA.match(line))]
    return {_normal(name) for name, of in named if of == extra}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
