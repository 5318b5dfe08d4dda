"""Measurements: speed, quality of anomaly detection, and in `reliability` promises under load."""
