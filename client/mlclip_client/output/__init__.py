"""What a run writes and counts: rows, files, the answer cache, tallies, near duplicates."""
