"""Downloads: polite to sites, within limits, and never from inside your own network."""
