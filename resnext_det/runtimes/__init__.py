"""Run a network, or the parts of a detector that take its time, by what is fastest here.

``optimize`` exchanges these parts for what a backend makes of them: "folded" (eager torch with the
norms multiplied in once), "compiled" (torch.compile), "onnxruntime" or "openvino".
"""

BACKENDS = ("auto", "folded", "compiled", "onnxruntime", "openvino")
"""What ``optimize`` takes; "auto" is the fastest on this machine of all but "compiled"."""

DTYPES = ("float32", "bfloat16", "int8")
"""The names of the types in which a backend may compute."""
