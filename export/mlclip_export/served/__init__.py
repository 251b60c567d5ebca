"""Files that run inside Triton: each is copied into the model repository as it is."""
