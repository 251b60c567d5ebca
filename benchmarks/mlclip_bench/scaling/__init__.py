"""How the cost of a head grows with the number of classes N, and of ML-Decoder with its groups K."""
