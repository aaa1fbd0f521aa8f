"""Module sets in folders and on the Hugging Face hub, with a card that says what they are."""
