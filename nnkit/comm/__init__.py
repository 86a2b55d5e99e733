"""Transports: how bytes move between ranks. Strategies, which decide what moves, are plugins in backends/."""
