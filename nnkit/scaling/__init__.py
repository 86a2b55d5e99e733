"""How training scales: steps timed over strategies, ranks and widths, beside what the cost model says."""
