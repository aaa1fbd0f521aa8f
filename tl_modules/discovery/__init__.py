"""From an activation matrix to functional modules; never sees a model."""
