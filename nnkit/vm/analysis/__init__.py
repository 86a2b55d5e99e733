"""What is known before code is made: how lanes relate, which part, where a kernel is cut into regions."""
