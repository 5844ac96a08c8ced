"""Scoring rules: from expectation and image to an anomaly map and one number."""
