"""From pixels to parameters: losses, one optimisation step, the schedule, checkpoints."""
