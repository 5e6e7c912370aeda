"""From a table of samples to vectors."""
