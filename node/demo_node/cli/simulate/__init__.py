"""`demo-node simulate`."""
