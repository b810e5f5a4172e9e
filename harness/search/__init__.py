"""Hyperparameter search whose winners have to survive a second look.

Optuna proposes, the trainer trains, and a study decides: a search only chooses candidates, on one
seed. The best are then run again beside the base, on seeds that no choice was made on, as a study
like any other; what it confirms is written out. A file imports only from files above it.

    file        the search file and its strict schema
    space       what is searched: ranges, choices, tricks on or off
    objective   what is sought, and what a trial may not exceed
    storage     Optuna's storage, sampler and pruner, opened or refused
    plan        the base described, the space tried at its ends, one identity
    slots       one run at a time on each GPU
    noise       the base, replicated first
    trial       one trial: a run that is watched, pruned, told
    crew        trials one after the other, on one GPU or several, within a budget
    confirm     the best again, on held-out seeds and at the next scale
    found       a search as data, read from its storage and its store
    patch       what survives, as a patch of the base's file
    words       that on the terminal
    tables      report.json, trials.csv
    charts      plotly figures              (extra `report`)
    page        report.html                 (extra `report`)
"""
