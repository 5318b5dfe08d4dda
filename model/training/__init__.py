"""Making and evaluating bundles: data, training, calibration, model cards.

The service never imports this package.
"""
