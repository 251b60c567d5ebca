"""All methods on one dataset and one encoder.

A new metric is an entry in `metrics`; a new figure is a function and an entry in `figures.draw_figures`.
"""
