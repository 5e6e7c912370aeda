"""Rows of a table: which images and masks they name, and what is wrong with them."""
