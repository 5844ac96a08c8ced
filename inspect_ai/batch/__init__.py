"""Scanning batches: resumable, exactly once, without torch."""
