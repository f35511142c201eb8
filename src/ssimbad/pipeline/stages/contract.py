"""What the table says of a stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ssimbad.params.tree import Params
from ssimbad.pipeline.inputs import Files
from ssimbad.pipeline.paths import Wildcards


@dataclass(frozen=True)
class Stage:
    """One row. `inputs` and `outputs` are functions of the parameters and of one instance's wildcards."""

    name: str
    run: str
    inputs: Callable[[Params, Wildcards], Files]
    outputs: Callable[[Params, Wildcards], dict[str, str]]
    params: Callable[[Params, Wildcards], tuple[str, ...]]
    each: Callable[[Params], list[Wildcards]] = lambda p: [{}]
    expensive: bool = False
    """Expensive stages depend on their version (workflow/versions.yaml) instead of on their code, and their finished
    results are kept by fingerprint."""
    batch: Callable[[Params, Wildcards], int] | None = None
    """Images of one step, which all devices of the job share; None: one process does the stage."""
    fetched: bool = False
    """Its outputs come from elsewhere and are accepted by their digests; nothing is computed."""
