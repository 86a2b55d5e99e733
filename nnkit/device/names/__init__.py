"""Names and types of kernels and variables: mangled, as the source has them, as a user gives them.

Imports `source`.
"""
