"""What the training steps of one rank have cost: time and communication."""

from dataclasses import dataclass

from nnkit.contracts import Traffic


@dataclass
class Cost:
    """What this rank's training steps have cost so far."""

    steps: int = 0
    seconds: float = 0.0
    sums: int = 0
    bytes: int = 0
    """The size of the arrays that were summed over ranks."""
    exposed_seconds: float = 0.0
    """The part of `seconds` in which this rank only waited for sums."""
    hidden_seconds: float = 0.0
    """The part of `seconds` in which this rank computed while sums were under way."""
    copies: int = 0
    """Exchanges of copies with the neighbours, in elastic runs."""
    copy_seconds: float = 0.0

    def add(self, seconds: float, before: Traffic, after: Traffic) -> None:
        """Count one step, and what its sums have cost."""
        self.steps += 1
        self.seconds += seconds
        self.sums += after.sums - before.sums
        self.bytes += after.bytes - before.bytes
        self.exposed_seconds += after.exposed - before.exposed
        self.hidden_seconds += after.hidden - before.hidden
