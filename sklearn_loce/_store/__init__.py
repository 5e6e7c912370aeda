"""Keys of vectors, and the stores of vectors."""
