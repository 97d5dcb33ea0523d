"""Compare measured runs with the figures of the ResNeXt paper."""
