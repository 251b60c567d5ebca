"""What all four studies share."""
