"""Rules that find what keeps a detector's AP low, each from a measurement."""
