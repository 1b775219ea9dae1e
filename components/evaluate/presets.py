"""Published protocols by name: every field that they set, and the figure that they should give."""

from collections.abc import Mapping
from typing import Any

from components import coerce

PRESETS: dict[str, dict[str, Any]] = {}


def protocol(name: str) -> Mapping[str, Any]:
    """The fields of an evaluation's configuration that a preset sets.

    Raises ValueError for an unknown name.
    """
    if name not in PRESETS:
        near, known = coerce.nearest(name, PRESETS), ", ".join(PRESETS)
        raise ValueError(f"preset={name!r}{near}, allowed: {known}")
    return PRESETS[name]
