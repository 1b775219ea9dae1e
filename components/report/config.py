"""The configuration of a report."""

from dataclasses import dataclass

from model.options import Checked, check, check_text


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Checked):
    """One page with curves, accuracies and answers as they denoise."""

    title: str = "LLaDA reasoning pipeline"
    """Heading of the page."""
    traces: int = 5
    """Problems whose denoising is drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text("title", self.title)
        check("traces", self.traces, 0 <= self.traces <= 50, "0 to 50")
