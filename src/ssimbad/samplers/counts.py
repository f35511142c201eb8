"""How many network calls a sampler makes: what of a sampler can be known without loading torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Calls:
    """Network calls per image of N steps: `per_step` each, less `saved` over all of them."""

    per_step: int = 1
    saved: int = 0
    most: int | None = None
    """Steps beyond which it has none; None: any number."""

    def of(self, steps: int) -> int:
        """The calls (NFE) of so many steps."""
        return self.per_step * steps - self.saved

    def most_steps(self, calls: int) -> int:
        """The largest number of steps with at most so many calls; 0 where there is none."""
        steps = (calls + self.saved) // self.per_step
        return steps if self.most is None else min(self.most, steps)


EACH = Calls()
TWICE = Calls(per_step=2, saved=1)
"""Two calls per step, but one in the step to zero."""

ODE: Mapping[str, Calls] = {
    "euler": EACH,
    "heun": TWICE,
    "phi2": TWICE,
    "log2": TWICE,
    "dpmpp_2m": EACH,
    "ddim": EACH,
}
"""The samplers of `ssimbad.samplers.ode`, which serve every model that denoises x = y + sigma·n."""
ONE_PASS: Mapping[str, Calls] = {}
"""Of a method that answers in one pass."""
