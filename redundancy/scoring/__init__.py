"""Scores of single images: the stage `score`, which makes them with networks of its own, and the files that hold them."""
