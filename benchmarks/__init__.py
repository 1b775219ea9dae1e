"""Side-by-side measurements: each file holds one kind of work, RESULTS.md the last tables."""
