"""What all arrays share: shapes and values that callers give, and memory shared with other libraries.

Imports no other room.
"""
