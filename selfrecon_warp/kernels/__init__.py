"""The Warp layer: one file per operation, torch tensors in, torch tensors out.

Importing this package initialises Warp once; nothing else runs at import. Every operation works on CPU and CUDA
tensors, in float32 and float64, launches on the stream that owns its inputs, and states its order of differentiability.
"""

import warp as wp

wp.config.log_level = wp.LOG_WARNING
wp.init()
