"""Measurements that people and tests can repeat: python -m benchmarks.NAME."""
