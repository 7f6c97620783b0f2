"""What was wanted, beside what was found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One number.

    Attributes:
        name: of what.
        wanted: at most; at least, if ``more`` is better.
        found: measured.
        unit: of both.
        more: whether more is better.
        why: what stands between, said if it is missed.
    """

    name: str
    wanted: float
    found: float
    unit: str
    more: bool = False
    why: str = ""

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.found >= self.wanted if self.more else self.found <= self.wanted

    def __str__(self) -> str:
        missed = self.wanted / self.found if self.more else self.found / self.wanted
        verdict = "met" if self.met else f"missed by a factor of {missed:.2f}"
        least = "at least" if self.more else "at most"
        wanted, found = f"{least} {self.wanted:g} {self.unit}", f"{self.found:.3g} {self.unit}"
        line = f"  {self.name:<46}{wanted:<18}{found:>12}   {verdict}"
        return line if self.met or not self.why else f"{line}\n    {self.why}"
