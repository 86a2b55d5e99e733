"""Is a difference round-off or a bug? Bounds that tell, and verdicts that say so."""
