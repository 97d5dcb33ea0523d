"""Files of pickles and of ``torch.save``, read without running any of their code.

Python's own unpickler calls what a file names and takes memory before it looks (for a memo's index,
a declared length); torch's ``weights_only`` unpickler lets a file take any amount of memory, and
could be made to run code before torch 2.10. Here ``machine`` interprets a pickle's instructions,
calls only a few functions of this package, and takes little more memory than the file has bytes.
"""
