"""Does learning together pay? Whole trainings in one process, with the daemon's own code."""
