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

    def times(self, calls: int) -> Calls:
        """The cost where each call of the sampler is so many of the network."""
        return Calls(self.per_step * calls, self.saved * calls)

    def plus(self, other: Calls) -> Calls:
        """The cost of both, in as many steps each."""
        return Calls(self.per_step + other.per_step, self.saved + other.saved)

    def most_steps(self, calls: int) -> int:
        """The largest number of steps with at most so many calls; 0 where there is none."""
        steps = (calls + self.saved) // self.per_step
        return steps if self.most is None else min(self.most, steps)


NONE = Calls(per_step=0)
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
