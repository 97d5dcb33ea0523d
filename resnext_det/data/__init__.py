"""Data for detection and classification: catalogs, reading, augmentation, sampling, loaders."""
