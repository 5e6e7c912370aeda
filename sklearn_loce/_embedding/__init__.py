"""All steps from a table of samples to vectors."""
