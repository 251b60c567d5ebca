"""A report people look at: the client's rows and their pictures as one HTML page that needs no network.

rows.py         rows from Parquet or JSONL, batch by batch
columns.py      what they say about the images: paths, errors, hashes, embeddings
answers.py      what one head said, as sparse scores (entries.py)
reasons.py      the references behind it
neighbours.py   the most similar rows of every row
thumbnails.py   small pictures, packed
missing.py      why some rows have no picture
page.py         the page as one string, from assets/: HTML, CSS and plain JavaScript
assemble.py     all of it in one file, and a folder beside it when there are many pictures
"""

from mlclip_client.report.assemble import Written, write_report

__all__ = ["Written", "write_report"]
