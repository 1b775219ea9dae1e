"""The stages of the pipeline, one folder each, and the contract that they share."""
