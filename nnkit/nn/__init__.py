"""The network: initial parameters, forward and backward pass, written on the operations of any device."""
