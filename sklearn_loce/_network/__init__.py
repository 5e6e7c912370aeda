"""The network: its handle, its layers, and its view of an image."""
