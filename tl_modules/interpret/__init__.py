"""What modules are: where they lie, how they nest, what they cover."""
