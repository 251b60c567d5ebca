"""Inputs of the bulk client: what names stand for (`find_inputs`), and the bytes of each (`Reader`)."""

from mlclip_client.inputs.item import Item, decode_path, encode_path
from mlclip_client.inputs.limits import USER_AGENT, Limits
from mlclip_client.inputs.reader import Reader, error_of
from mlclip_client.inputs.skipped import InputOptions, Skipped
from mlclip_client.inputs.source import find_inputs

__all__ = [
    "USER_AGENT",
    "Skipped",
    "InputOptions",
    "Item",
    "Limits",
    "Reader",
    "decode_path",
    "encode_path",
    "error_of",
    "find_inputs",
]
