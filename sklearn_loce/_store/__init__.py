"""Keys of vectors, and where vectors are kept."""
