"""Evaluation: COCO's numbers for detectors, drawings and plots of results."""
