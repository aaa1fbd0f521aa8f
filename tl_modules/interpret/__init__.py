"""What modules are: what they are about, where they lie, how they nest, what they cover."""
