"""What modules are about: words, contexts, the tokens they write; on the way to a label."""
