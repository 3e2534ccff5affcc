"""From files to tensors: cameras, captures and their ground truth."""
