"""Emitters, one family of instructions a file."""
