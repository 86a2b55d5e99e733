"""What a training step takes on a machine, predicted: its work, its sums, and fits to what was measured."""
