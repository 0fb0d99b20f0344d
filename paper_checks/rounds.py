"""When agents mix: after `first` steps, and then after every `every` more."""

from __future__ import annotations

from typing import NamedTuple

from decaf_theory.methods import Clock


class Rounds(NamedTuple):
    """The rounds of a run: round 0 has the steps 0 .. first - 1, each later one has `every`.

    Each ends with a mix (or, if mixing comes first, begins with one). Steps after the last whole
    round are a round without a mix.
    """

    every: int
    first: int

    def clock(self, t: int) -> Clock:
        """Return the clock of training step t."""
        if t < self.first:
            return Clock(0, t, self.first)
        later, step = divmod(t - self.first, self.every)
        return Clock(1 + later, step, self.every)

    def whole(self, steps: int) -> int:
        """Return how many rounds have ended after so many steps."""
        return 0 if steps < self.first else 1 + (steps - self.first) // self.every

    def before(self, mix: int) -> Clock:
        """Return the clock of the step before mix 1, 2, ...; of mix 0, at the start, of step 0."""
        return self.clock(max(0, self.first + (mix - 1) * self.every - 1))
