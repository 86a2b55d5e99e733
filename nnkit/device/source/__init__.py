"""A user's CUDA source before it is compiled: its headers, its host code, and its lines in messages.

Imports `cpp` and `cache`.
"""
