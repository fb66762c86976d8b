"""The interface of `import redundancy` for other programs: clusters arrays, and reads finished workdirs."""
