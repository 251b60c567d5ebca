"""Files that run inside Triton: each is copied unchanged into the model repository."""
