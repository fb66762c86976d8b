"""The embedding of every training image: the job that makes them and the sharded store that holds them."""
