"""A served model repository under load, through the real client: define, run, store raw, derive, draw.

`define` says what is measured, `generate` sends, `run` measures one level, `store` keeps raw lines, `derive` and
`search` compute from them, `tables`, `pictures` and `report` show it, `cli` is the command `mlclip-bench load`.
"""
