"""The dpo stage."""
