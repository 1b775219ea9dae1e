"""The grpo stage."""
