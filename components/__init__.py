"""The stages of the pipeline, one folder each, and the contract that they share."""

PROJECT = "llada-reasoning"
USER = 10001  # of the image, and its group, which owns the shared volumes
