"""What no stage's own configuration says: how the model is aligned."""

from typing import Literal

Preference = Literal["dpo", "grpo"]
