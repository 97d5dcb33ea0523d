"""Pre-training and testing of classifiers: a job goes in, metrics and a file of weights come out."""
