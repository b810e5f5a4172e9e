"""A complete GPT-2 trainer in which every speedrun trick is a toggle; useful without the harness.

Packages in the order of their imports; each imports only those above it. Describing or refusing a
configuration imports no torch.

    errors        what users can meet: expected, got, hint
    system        CPU cores, GPU clocks and state, timing, compile jobs and caches, time limits
    data          text -> tokenizer, token shards, packing plan, rows, loader
    config        every field; file and overrides -> checked configuration, derived values and
                  identity; the catalogue of tricks; shapes, stages, schedules, memory by formula
    distributed   ranks and what they exchange: tensors, one status a step, straggler statistics
    checkpoint    directory, staging into host memory, asynchronous writer, resuming
    attention     causal attention with windows: back-ends behind one interface
    kernels       fused kernels, fp8 products, and the choice of who computes what
    arch          linear, norms, parameters with label and initial values, keyed initialisation
    tricks        one file a trick
    gpt           the architecture, read from top to bottom
    optim         Muon and AdamW by label, sharded over ranks
    core          the CORE metric
    trainer       model and optimizers on a device, one step at a time; `evaluate`: validation
    runtime       process and its end, run directory, environment, preflight, compilation
    diagnostics   what a job requires of a machine; what its GPUs and links really do
    training      the loop of a run; `stepper`: a compiled trainer that steps on request

Commands: `train`, `pace` (steps on request), `describe`, `doctor`, `data`, `core_eval`, `val_eval`.
"""
