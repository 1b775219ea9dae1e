"""The rows of a dataset: where they come from, how they are read, and what is kept of them."""
