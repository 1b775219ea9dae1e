"""Rewards: verified answers, a sandbox for code, equivalence of formulas, and a judge."""
