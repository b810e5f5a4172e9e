"""The simulated trainer: real processes under the trainer's contract, curves from a formula.

The tests run it, and users try the harness with it where torch is missing. It imports nothing of
the harness but `errors` and `files`.
"""
