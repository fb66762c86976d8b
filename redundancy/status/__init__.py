"""What a workdir holds, who works there and when it will be done, read without a lease. Writes nothing."""
