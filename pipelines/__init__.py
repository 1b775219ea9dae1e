"""Wiring: the DAG, its recipes, where it runs, and the runner for a laptop."""
