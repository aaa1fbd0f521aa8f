"""Small transformers whose neurons' owners are known, and what finds the owners again."""
