"""How every access is lowered: its space and its address, the check in front of it."""
