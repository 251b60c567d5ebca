"""What all four studies share.

::

    store        raw results: JSON lines in one file per study
    files        text and JSON files whose errors are one line
    intervals    estimates with their intervals
    markdown     tables and numbers of reports
    figures      the style of all figures, and how they are saved
    options      lists of numbers on the command line
    progress     the progress bar
    workers      programs in processes of their own; `worker_protocol` is their side of the conversation
"""
