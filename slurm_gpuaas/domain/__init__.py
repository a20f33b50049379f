"""The nouns of the product and their rules. No I/O, no clock, no global state."""
