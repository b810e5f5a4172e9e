"""The machines of a job, measured before it starts: `python -m model.probe`, or under torchrun.

In the order of the flow:

    facts       what a rank says of its machine, its GPU, its work: plain values
    gpu_state   clocks, power, heat and errors of a GPU, as the driver tells them
    links       the ways between the GPUs of a machine
    look        one rank looks at its machine, then puts its GPU to work
    all_reduce  how fast ranks sum a tensor, and whether the sum is right
    board       where ranks leave each other their facts, by no GPU and no link between GPUs
    judge       facts of all ranks -> findings, pure functions
    leave       being told to leave
    course      the phases in their order, for one rank
    report      probe.json, whole after every phase

Nothing is trained. Every phase has an end: a rank that does not answer, a link that is broken, a
driver that hangs becomes a finding, and what was found before stands in the file. The facts go by
torchrun's own store, so that a broken link between GPUs is told and not waited for.
"""
