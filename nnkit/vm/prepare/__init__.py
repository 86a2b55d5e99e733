"""A kernel before it is compiled: one body, its variables' places, what must be explicit or wide again."""
