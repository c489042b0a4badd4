"""What every peer of a run must agree on: pure functions of bytes and time, no I/O."""
