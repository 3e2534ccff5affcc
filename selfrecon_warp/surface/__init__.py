"""From model to pixels: takes callables and tensors, imports no network."""
