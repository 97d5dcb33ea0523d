"""What is timed beside other implementations, in interleaved turns."""
