"""Launching: memory, threads, what a kernel calls in Python, and what went wrong."""
