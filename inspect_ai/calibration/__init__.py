"""From a number to a verdict with a promise."""
