"""How the cost of a head grows with the number of classes N, and of ML-Decoder with its groups K.

::

    cases, reference, label_sets   what is measured: series of graphs over N, and the facts behind them
    build, graphs                  random weights become ONNX files, checked against torch outside of any clock
    worker, pool, rounds           one process a graph; all take turns, round by round
    triton                         the same points, asked of a real server
    results                        raw lines
    statistics, derive             intervals, growth exponents, ratios, break-even
    pictures, report               what people look at; nothing is measured again
"""
