"""The table of a config's trainings, the stage that trains them, and their results."""
