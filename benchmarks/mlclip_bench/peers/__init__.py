"""The same images through mlclip and through what people would use instead, in turns; the results are ratios.

::

    catalogue                  the peers: what is installed for each, and its script in `scripts/`
    environments, material     interpreters, weights in every format, a model repository
    hugging_face               the same weights in Hugging Face's format
    measure, agreement         rounds in which all peers take turns; whether their vectors agree
    results                    raw lines
    derive, report             from raw lines to ratios and a report
"""
