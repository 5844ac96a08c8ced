"""The benchmark: every run file on its data, against the best simple statistic; see benchmark.py."""
