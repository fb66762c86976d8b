"""Reports the contents of a workdir, who works there and when it will be done. Takes no lease and writes nothing."""
