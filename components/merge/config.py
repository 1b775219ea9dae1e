"""What a merge is."""

from dataclasses import dataclass

from model.options import Checked


@dataclass(frozen=True, kw_only=True)
class MergeConfig(Checked):
    """Nothing to choose: the base's files, names and precision are kept."""
