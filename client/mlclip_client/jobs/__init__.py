"""Jobs: bulk work that survives being stopped or killed, and that several workers share.

    DIR/job.json         what was asked, and the model versions that answer
    DIR/plan.parquet     every input, one row group a shard
    DIR/claims           locked byte by byte: who works on which shard
    DIR/findings.sqlite  content hash -> answer, so that the same bytes are asked for once
    DIR/labels/          one Parquet file a finished shard; the folder is a dataset for any Parquet reader

A shard's file appears whole or not at all, so every input has exactly one row, whatever was killed when.
"""
