"""The network: its handle, its layers, and what it sees of an image."""
