"""Tell what a file of weights is, what it lacks for detection, and which configuration fits."""
