"""Training: configuration, step and loop, several ranks and their loss, checkpoints, metrics and plots."""
