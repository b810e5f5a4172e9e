"""Commands of the harness as jobs of a cluster, and trainers on several of its nodes.

The path of one job; a file imports only from files above it:

    tether      trainers on several nodes, held by one line
    nodes       one trainer over several nodes: its command line
    file        what a job asks a scheduler for
    shared      whether every node sees the store
    journal     what is kept of a submission and its jobs
    allocation  what a job may still use, and another start
    job         what runs inside: stopped in time, started again
    submission  hands a command to the scheduler
    states      how jobs are; waiting, cancelling
    table       the same in the terminal
    cli         the words of `harness submit`

`nodes` needs nothing of the rest: whoever starts a trainer may ask it for a command line.
"""
