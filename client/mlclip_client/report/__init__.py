"""A report to look at: the client's rows and their pictures as one HTML page that needs no network."""

from mlclip_client.report.assemble import Written, write_report

__all__ = ["Written", "write_report"]
