"""Who answers over gRPC: the transport, the pool of endpoints, and what they serve."""
