"""What `import redundancy` offers to other programs: the clustering of arrays, and what a finished workdir holds."""
