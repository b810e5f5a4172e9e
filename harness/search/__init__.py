"""Hyperparameter search with Optuna; winners are confirmed on held-out seeds."""
