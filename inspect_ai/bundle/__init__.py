"""The bundle: the one thing that crosses from the workshop to the shop floor."""
