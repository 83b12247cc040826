"""Flax on top of jaxquant: modules whose dense layers run on codes.  No arithmetic of their own."""
