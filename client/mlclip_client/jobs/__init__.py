"""Jobs: bulk work that can be interrupted and resumed, and that several workers share.

    DIR/job.json         what was requested, and the versions of the heads that answer
    DIR/plan.parquet     every input, one row group per shard
    DIR/claims           locked byte by byte: which worker has which shard
    DIR/findings.sqlite  content hash -> answer, so that the same bytes are sent once
    DIR/labels/          one Parquet file per finished shard; any Parquet reader can open the folder as a dataset

A shard's file appears only when it is complete, so every input gets exactly one row after any interruption.
"""
