"""Downloads: fetched politely, within limits, and never from inside the own network."""
