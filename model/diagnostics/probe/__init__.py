"""Measures the machines of a job before it starts: probe.json of one process, or of all ranks.

    {"ranks": n, "complete": true, "findings": [...],
     "gpus": [{rank, name, uuid, memory_bytes, free_bytes, processes, power_limit_w, sm_clock_mhz,
               sm_clock_max_mhz, throttled, temperature_c, matmul_tflops, copy_gb_s, ...}],
     "cpus": [{rank, name, cores, threads, matmul_tflops, copy_gb_s}],
     "links": [[...]], "driver": ..., "cuda": ..., "nccl": ..., "torch": ...,
     "backends": {operation: kernel}, "all_reduce": [{bytes, seconds, bus_gb_s}]}

`gpus` is empty on CPUs, `cpus` on GPUs, `all_reduce` with one rank.

    facts        what a rank reports of its machine, its GPU, its measurement: plain values
    gpu_state    clocks, power, temperature and errors of a GPU, as the driver reports them
    topology     the links between the GPUs of a machine
    measurement  inspects one rank's machine, then measures its GPU
    all_reduce   how fast ranks sum a tensor, and whether the sum is right
    rendezvous   where ranks exchange their facts, without a GPU or a link between GPUs
    checks       facts of all ranks -> findings, pure functions
    shutdown     signals and the end of the parent process
    phases       the phases in their order, for one rank
    report       probe.json, complete after every phase
    command      one process of the probe, with its exit code

Trains nothing. Every phase has a timeout: a rank that does not respond, a broken link or a driver
that hangs becomes a finding, and earlier findings are kept. Ranks exchange their facts through
torchrun's store, so that a broken link between GPUs is reported, not waited for.
"""
