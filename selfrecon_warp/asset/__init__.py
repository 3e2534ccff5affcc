"""What is taken away: a rigged, textured, animated mesh, and the files other programs read."""
