"""What to do with rows: see whether they drift, and choose the pictures that a person should look at."""
