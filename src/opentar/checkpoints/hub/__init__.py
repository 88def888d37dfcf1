"""Published models by name: what they are made of, fetching them, and the card of a model."""
