"""`demo-node swarm`: real nodes on this machine, started, watched, measured and stopped."""
