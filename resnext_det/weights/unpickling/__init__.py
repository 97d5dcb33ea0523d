"""Pickles read without running them: a machine of our own for pickle's instructions.

Python's own unpickler calls what a file names, and takes memory before it looks (for a memo's index, for a declared length). This one
calls nothing but the few functions that it was given, and never takes much more memory than the file has bytes.
"""
