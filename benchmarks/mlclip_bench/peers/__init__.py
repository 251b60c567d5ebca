"""Peers: the same images through what people would use instead of mlclip, interleaved, as ratios.

`catalogue` says who, `environments` and `material` get them ready, `measure` stores raw lines, `derive` and
`report` turn them into figures and a page. Each peer is one script in `scripts/`, run by the interpreter of an
environment of its own.
"""
