"""Ablation and regression benchmarks for GPT-2 speedrun trainers.

The packages in the order in which a result passes through them. A package imports only those
above it, and siblings on one line never import each other; import-linter checks both.

    errors, files, redact, format, metrics   exceptions and exit codes, atomic files, the metrics
    stats              intervals, decisions, power, sequential tests: pure functions
    config             strict schemas of study, search, full-job and cluster files
    results            the record of a run, the store, archives; readers of other trainers' logs
    compare, runner    the comparison engine with its noise model; trainers and their processes
    study, gate        arms, designs and attribution; baselines and the gate
    search, full       hyperparameter search; the full job and its forecast
    report             everything that prints or draws
    cli                one file a command
"""
