"""Tools for those who build on sklearn_loce."""
