"""The rows of a dataset: sources, reading, filtering and files."""
