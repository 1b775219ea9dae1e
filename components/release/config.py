"""The configuration of a release."""

from dataclasses import dataclass

from model.options import Checked, check, check_text


@dataclass(frozen=True, kw_only=True)
class ReleaseConfig(Checked):
    """A model is released if it is accurate enough. The defaults are those of the 8B recipe."""

    accuracy: float = 0.5
    """Score on `task` that the model must reach; otherwise the pipeline ends without a release."""
    task: str | None = None
    """Name of the task whose score decides; null is the first of the evaluation. In a pipeline it
    is always the first."""
    name: str = "llada-reasoner"
    """Name of the model on its card."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("accuracy", self.accuracy, 0 <= self.accuracy <= 1, "0 to 1")
        check_text("task", self.task, "the name of a task, or null")
        is_line = bool(self.name.strip()) and self.name.splitlines() == [self.name]
        check("name", self.name, is_line, "one line")
