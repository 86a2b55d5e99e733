"""Plans: which strategy and which grid, and how long a step takes, before there is a machine to try it on."""
