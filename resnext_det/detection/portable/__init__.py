"""Faster R-CNN over torchvision's operators, with detectron2's names and numbers."""
