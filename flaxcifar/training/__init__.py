"""Training: experiment, steps, loop, evaluation and results."""
