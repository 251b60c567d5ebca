"""A served model repository under load, through the real client; `define` says what is measured."""
