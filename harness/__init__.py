"""Runs studies of a trainer, and says what each of its tricks is worth.

The path of one result. A file imports only from files above it; a test holds that.

    errors          what a user can meet, and the exit codes
    masking         words of a command without their passwords
    atomic          files that are whole or absent, canonical JSON
    config          the study file and its strict schema
    cluster         a command as a job of Slurm, a trainer over several nodes
    trainer         the adapters: how a trainer is asked and started
    run             one run: one process, watched and ended
    outcomes        what a run answered on every example of CORE
    record          what is kept of a run directory
    pace            a trainer that steps when told
    arms            a study with every question answered: arms, runs, rule
    store           plans, records, curves and studies as plain files
    pack            a store as one tar
    dunnett         quantiles of t, and of the largest of several
    fits            arms inside blocks; loss against training length
    statistics      pooled SDs, intervals, smallest detectable effects
    verdict         pass, regression or inconclusive, and the noise behind it
    power           what a comparison will be able to say, and how many runs settle it
    sequential      three looks at the error rate of one
    mixture         a test that may be looked at after every block
    launches        the noise of a speed A/B
    pairs           two models on the same examples
    ab              two of them in turns, A B B A
    relay           the same as whole processes, one after the other
    turns           which of the two it has to be
    sweep           fair settings for an arm, from a grid on seeds of its own
    worktree        other code for an arm: a git ref or a patch
    dependencies    what other code wants installed, and an environment that has it
    draft           arms while they are worked out
    resolve         study file -> arms: described, pinned, identified
    attempt         one attempt at a planned run; recovery after a kill
    replicates      runs of one configuration, one a seed
    budget          what a study will take, cost and be able to see
    schedule        the order of runs, and which stay together
    allowance       limits of time and failures
    study           makes the runs
    plan_table      a dry run on the terminal
    live            a running study on the terminal
    effects         what an attribution says
    comparison      every arm against the base, in one metric
    time_to_target  loss and speed together, in training time
    attribution     resolved study and records -> effects
    paired_core     CORE of two sides, example by example
    report          terminal, HTML, JSON, CSV, picture
    search          the best settings: Optuna proposes, held-out seeds decide
    ledger          how much runs differ that should not
    logs            readers: what training runs left behind, whoever made them
    margins         what is compared, which way is worse, how much matters
    fairness        may these runs be compared
    judgement       two sides of runs, metric by metric
    answers         the outcomes of CORE behind two sides
    summary         a comparison in the terminal, as Markdown, as JSON
    baseline        stored replicates, append-only
    gate            did this change make anything worse
    full            the full job: preflight, forecast, launch, watch, the row
    doctor          what this machine can run, with remedies
    drift           the night since which runs are worse
    drift_report    the watch on the terminal and as Markdown
    commands        what each command does
    compare         what the commands compare and noise do
    banking         what the command baseline does
    gating          what the command gate does
    searching       what the command search does
    tuning          a study's sweep, filled by a search
    launching       what the command full does
    options         what several commands take: store, overrides, margins
    gate_cli        the words of gate and baseline
    ci              workflows that gate pull requests: written, updated, checked
    cli             the words of the command line

Apart from these, `fake` is a trainer of its own: a real process under the contract, without torch.
"""
