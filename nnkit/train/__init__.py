"""Training: configuration, step, loop, checkpoints, metrics, progress and plots."""
