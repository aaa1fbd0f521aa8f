"""Whether each kind of p-value in the package keeps its level, and what valid controls cost."""
