"""What is learned, in plain PyTorch: body, canonical field, deformation, appearance."""
