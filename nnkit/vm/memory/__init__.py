"""How every access is lowered: space and address, what is attached (the check first), the access itself."""
