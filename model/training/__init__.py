"""Training: the loop, its optimizer, what belongs to a step, and stopping between two steps."""
