"""The commands, by the side of the wall they stand on; cli.py puts them together."""
