"""Scores of single images: the stage `score`, which trains its own networks to compute them, and the files that hold them."""
