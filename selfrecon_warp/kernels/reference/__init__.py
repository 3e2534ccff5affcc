"""Plain-torch twins of the kernels, same stems: short, slow, obvious. Only tests and benchmarks import them."""
