"""Regions as functions: blocks in order, how lanes move between them, barriers, and who takes which block."""
