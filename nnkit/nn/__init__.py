"""The network: its parameters, their random start, and its passes, written on operations and knowing no device."""
