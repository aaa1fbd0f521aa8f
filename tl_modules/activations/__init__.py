"""From a model's activations to a samples x units matrix."""
