"""The backends that ship with nnkit, one file each; they come in through entry points, as yours would."""
