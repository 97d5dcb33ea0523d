"""Images for classification: sets, augmentation, batches."""
