"""The machines of a job, measured before it starts: probe.json of one process, or of all ranks.

    {"ranks": n, "complete": true, "findings": [...],
     "gpus": [{rank, name, uuid, memory_bytes, free_bytes, processes, power_limit_w, sm_clock_mhz,
               sm_clock_max_mhz, throttled, temperature_c, matmul_tflops, copy_gb_s, ...}],
     "cpus": [{rank, name, cores, threads, matmul_tflops, copy_gb_s}],
     "links": [[...]], "driver": ..., "cuda": ..., "nccl": ..., "torch": ...,
     "backends": {operation: kernel}, "all_reduce": [{bytes, seconds, bus_gb_s}]}

`gpus` is empty on CPUs, `cpus` on GPUs, `all_reduce` with one rank. In the order of the flow:

    facts        what a rank reports of its machine, its GPU, its measurement: plain values
    gpu_state    clocks, power, temperature and errors of a GPU, as the driver reports them
    topology     the links between the GPUs of a machine
    measurement  one rank inspects its machine, then puts its GPU to work
    all_reduce   how fast ranks sum a tensor, and whether the sum is right
    rendezvous   where ranks exchange their facts, without a GPU or a link between GPUs
    checks       facts of all ranks -> findings, pure functions
    shutdown     signals and the end of the starting process
    phases       the phases in their order, for one rank
    report       probe.json, complete after every phase
    command      one process of the probe, with its exit code

Nothing is trained. Every phase has a time limit: a rank that does not answer, a broken link or a
driver that hangs becomes a finding, and what was found before is kept. Ranks exchange their facts
through torchrun's own store, so that a broken link between GPUs is reported and not waited for.
"""
