"""Write whole detectors into files that run elsewhere, and run such files."""
