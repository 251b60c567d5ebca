"""A report to look at: the client's rows and their pictures as one HTML page that needs no network.

rows.py         reads rows from Parquet or JSON lines, batch by batch
columns.py      all that they say about the images, as columns
answers.py      what one head said, and the references behind it
entries.py      sparse columns of images, classes and scores
neighbours.py   embeddings, and the most similar rows of every row
pictures.py     the bytes behind paths, small pictures, and why some rows have none
page.py         the page as one string, from assets/: HTML, CSS and plain JavaScript
assemble.py     all of it in one file, and a folder beside it if there are many pictures
"""

from mlclip_client.report.assemble import Written, write_report

__all__ = ["Written", "write_report"]
