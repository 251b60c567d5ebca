"""Inputs of the bulk client: what names stand for (`find_inputs`), and the bytes of each (`Reader`)."""

from mlclip_client.inputs.found import Found, InputOptions
from mlclip_client.inputs.item import Item, decode_path, encode_path
from mlclip_client.inputs.limits import USER_AGENT, Limits
from mlclip_client.inputs.names import find_inputs
from mlclip_client.inputs.reader import Reader, error_of

__all__ = [
    "USER_AGENT",
    "Found",
    "InputOptions",
    "Item",
    "Limits",
    "Reader",
    "decode_path",
    "encode_path",
    "error_of",
    "find_inputs",
]
