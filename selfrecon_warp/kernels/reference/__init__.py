"""Plain-torch twins of the kernels, under the same stems: short, slow, obvious. Only tests and benchmarks import them."""
