"""Find what keeps a detector's AP low: rules, each of which looks at a measurement."""
