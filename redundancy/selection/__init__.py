"""From embeddings to subsets: linkage within each class, cuts at any fraction, kept images, random subsets."""
