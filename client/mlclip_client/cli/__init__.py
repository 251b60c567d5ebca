"""The command `mlclip-client`: a thin caller of the library."""
