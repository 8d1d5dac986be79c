"""The data engine: instruction data written by a text-only teacher (section 3)."""
