"""The command `export`: the images that a subset keeps or drops, its groups or its embeddings, as files for other tools."""
