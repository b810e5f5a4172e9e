"""The full job: what it will cost and reach, whether it may start, how it goes, what it proved.

A file imports only from files above it.

    file        the file of a job and its strict schema
    plan        the job and its proxies, described, their data ready
    proxies     runs that a forecast rests on: one recipe, or refused
    laws        how a metric follows the size
    fit         a law through a few sizes, and what it does not know
    forecast    bits and CORE of the job, with intervals
    cost        time and money, from steps that were measured
    band        where the training loss should be on its way
    preflight   needs, probe, step test: expected, got, remedy
    series      the proxies, made
    foretell    records and steps -> forecast, band, cost
    watch       progress held against what was foretold
    row         the leaderboard's line, and the verdict
    words       all of it on the terminal
    live        a job while it runs
    launch      its attempts: followed, gone on with
    evidence    what supports it, as one tar
    charts      plotly figures              (extra `report`)
    page        report.html                 (extra `report`)
    closing     what a job ends with: row, verdict, page, evidence
"""
