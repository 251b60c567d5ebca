"""Encoders: open_clip models, their text towers, and the features cached from them."""
