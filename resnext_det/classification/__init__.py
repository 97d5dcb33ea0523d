"""Train and test classifiers: a job goes in, metrics and a file of weights come out."""
