"""From activations and masks to vectors."""
