"""The simulated trainer: real processes that follow the trainer contract, with curves by formula.

Users try the harness with it where torch is not installed; the tests run it. It imports nothing of
the harness but `errors` and `files`.
"""
