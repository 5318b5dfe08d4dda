"""The commands of `python -m model`, one file each: the options and what the command does."""
