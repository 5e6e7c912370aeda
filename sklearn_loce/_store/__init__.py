"""What tells one vector from another, and where vectors are kept."""
