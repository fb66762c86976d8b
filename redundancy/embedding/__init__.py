"""Embeddings of all training images: the stage that makes them and the sharded store that holds them."""
