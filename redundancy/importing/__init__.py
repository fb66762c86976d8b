"""The command `import`: embeddings of other tools, checked and brought into the store."""
