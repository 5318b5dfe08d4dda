"""The commands of `python -m model`, a file each: its options, and what it does."""
