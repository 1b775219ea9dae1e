"""The sft stage."""
