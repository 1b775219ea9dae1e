"""What a merge is."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """Nothing to choose: the base's files, names and precision are kept."""
