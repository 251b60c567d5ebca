"""All methods on one dataset and one encoder.

::

    studies, floors         what is compared: variants with their recipes, and methods without an encoder
    run                     measures what has no line yet: train, score the test images, write a line
    results                 raw lines, and the test scores behind them
    comparison              intervals of differences, by resampling test images
    derive                  from raw lines and scores to means, intervals and curves; nothing is measured again
    metrics                 the columns of all tables: a new metric is an entry there
    figures                 the figures: a new one is a function and an entry in `draw_figures`
    tables, report          Markdown
"""
