"""The state of one kernel's text: registers, masks, frames, strands, special registers."""
