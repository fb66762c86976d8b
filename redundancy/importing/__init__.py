"""The command `import`: checks embeddings of other tools and writes them to the store."""
