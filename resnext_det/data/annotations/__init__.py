"""Annotation files: COCO's are read, VOC's and YOLO's converted, others recognized."""
