"""How the cost of a head grows with the number of classes N, and of ML-Decoder with its groups K.

::

    cases, reference, label_sets   what is measured: series of graphs over N
    build, memory, graphs          random weights become ONNX files, compared with torch outside of any clock
    pool, graph_worker, rounds     one process per graph; all take turns, round by round
    sources, triton                the same points in processes of our own, or behind a real server
    results                        raw lines
    growth, derive                 exponents and break-even; figures from raw lines
    figures, report                what people look at; nothing is measured again
    agreement                      whether two runs agree
"""
