"""The command `export`: what a subset keeps, or drops, its groups or its embeddings, as files for other tools."""
