"""Is a difference round-off or a bug? Rounding error bounds, checks of backends, benchmarks that check."""
