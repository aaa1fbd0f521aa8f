"""Results as pages people open."""
