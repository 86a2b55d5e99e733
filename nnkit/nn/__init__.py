"""The network: parameters, their random start, the two passes; written on operations, knowing no device."""
