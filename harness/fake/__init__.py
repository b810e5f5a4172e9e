"""The trainer in the box: the contract without the training.

`describe`, `needs`, `probe`, `train` and `pace` are real processes with real files, deaths and
time-outs; only the curve is a formula. The harness is tested with it, and tried out where torch is
missing. Imports nothing of the harness but errors and atomic.
"""
