"""A training run: opening the base, keeping checkpoints, writing metrics, saving, recording."""
