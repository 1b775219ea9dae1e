"""What a release asks for."""

from dataclasses import dataclass

from model.options import Checked, check


@dataclass(frozen=True, kw_only=True)
class ReleaseConfig(Checked):
    """A model is released when it is accurate enough. The defaults are those of the 8B recipe."""

    accuracy: float = 0.5
    """Exact match from which the model is released; below it the pipeline stops there."""
    name: str = "llada-reasoner"
    """Name of the model on its card."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("accuracy", self.accuracy, 0 <= self.accuracy <= 1, "0 to 1")
        is_line = bool(self.name.strip()) and self.name.splitlines() == [self.name]
        check("name", self.name, is_line, "one line")
