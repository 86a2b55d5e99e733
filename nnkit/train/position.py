"""Where a training run stands: complete epochs and steps, and the records so far."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Position:
    """Where a run stands. With the parameters it is all that is needed to continue, bit for bit."""

    epoch: int = 0
    """Epochs that are complete."""
    step: int = 0
    """Steps of the current epoch that are complete."""
    loss_sum: float = 0.0
    """The sum of the losses of these steps' samples."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The record of every complete epoch, as in the metrics file."""

    def to_json(self) -> dict[str, Any]:
        """A document of the fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Position":
        """The position in such a document; raises TypeError or ValueError for any other document."""
        position = cls(**document)
        kinds = {"epoch": int, "step": int, "loss_sum": float, "history": list}
        for name, kind in kinds.items():
            if type(getattr(position, name)) is not kind:
                raise TypeError(f"position: {name} is {getattr(position, name)!r}")
        if position.epoch < 0 or position.step < 0 or len(position.history) != position.epoch:
            raise ValueError(f"position: epoch {position.epoch}, step {position.step}")
        return position
