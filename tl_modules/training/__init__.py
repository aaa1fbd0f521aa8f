"""Training that is limited to a module, or that leaves it alone."""
