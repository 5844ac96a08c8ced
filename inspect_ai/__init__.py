"""Visual inspection from defect-free images: train, calibrate, export, scan, report.

`inspect_ai.cli` is the command line; the map of the rooms is in README.md.
"""

__version__ = "0.1.0"
