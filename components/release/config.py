"""The configuration of a release."""

from dataclasses import dataclass

from model.options import Checked, check


@dataclass(frozen=True, kw_only=True)
class ReleaseConfig(Checked):
    """A model is released if it is accurate enough. The defaults are those of the 8B recipe."""

    accuracy: float = 0.5
    """Exact match that the model must reach; otherwise the pipeline ends without a release."""
    name: str = "llada-reasoner"
    """Name of the model on its card."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("accuracy", self.accuracy, 0 <= self.accuracy <= 1, "0 to 1")
        is_line = bool(self.name.strip()) and self.name.splitlines() == [self.name]
        check("name", self.name, is_line, "one line")
