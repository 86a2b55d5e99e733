"""The transport `single`: one process, one rank, nothing to move."""


class SingleTransport:
    """Rank 0 of 1."""

    rank = 0
    size = 1
