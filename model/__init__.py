"""Tensors and mathematics of masked-diffusion language models: no KFP, no network, no storage."""
