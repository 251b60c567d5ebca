"""Inputs of the bulk client: what names stand for (`find_inputs`), and the bytes of each input (`Reader`)."""

from mlclip_client.inputs.find import find_inputs
from mlclip_client.inputs.item import Cell, Item
from mlclip_client.inputs.reader import Reader
from mlclip_client.inputs.skipped import Skipped
from mlclip_client.options import InputOptions, Limits

__all__ = ["Cell", "InputOptions", "Item", "Limits", "Reader", "Skipped", "find_inputs"]
