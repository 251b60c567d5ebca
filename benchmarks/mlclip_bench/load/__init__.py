"""A served model repository under load, through the real client.

::

    define            what is measured: levels of load, their length, the images
    generate, windows sending, and what comes back in windows of time
    target, server_counters, resources   the server, what it counts, and what it uses
    run, sweep, search                   one level; all levels; the highest rate that holds the target
    results           raw lines
    derive            from raw lines to values per level
    tables, figures, report              CSV, figure and report
"""
