"""The settings of a merge: none."""

from dataclasses import dataclass

from model.options import Checked


@dataclass(frozen=True, kw_only=True)
class MergeConfig(Checked):
    """Empty: a merge keeps the base's files, names and precision."""
