"""Training: configuration, step and loop, ranks and recovery from lost ones, checkpoints, metrics, plots."""
