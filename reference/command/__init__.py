"""The terminal: arguments, subjects, and what is printed."""

import os

# Before NumPy is imported: the threads of its BLAS take a tenth of a second to start, and the verdict uses none of them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
