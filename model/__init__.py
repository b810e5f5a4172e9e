"""A complete GPT-2 trainer in which every speedrun trick is a toggle; useful on its own.

What a run is, without torch:

    config      every field, its default and what it means
    configfile  a file and overrides -> a checked configuration
    checks      ranges and combinations
    catalogue   the tricks: on, off, requirements, sources, people
    shapes      every parameter by formula
    fusible     which places a fused kernel could serve
    memory      the peak of a run, by parts
    stages      stretches of steps of one shape: rows, row length, predicted tokens
    horizon     how long a run trains, by steps, tokens, FLOPs or seconds
    derive      the dial: sizes, batch, rates, decay, horizon
    schedules   learning rate, momentum, decay, weights of the loss over the run
    identity    hashes of configuration and code
    describe    all of it, on the command line
    finding     what was found before a job: expected, got, hint, how much it matters
    needs       data, tokenizer, bundle, disk, GPUs against what a job takes of them
    data        text -> tokenizer, token shards, packed rows

and the run itself:

    parameter   tensors that carry their label and initial distribution
    linear, norm, attention, tricks
    shared      one tensor for several readers
    places      where tokens stand that do not begin a row
    gpt         the architecture, read from top to bottom
    init        keyed initialisation
    optim       Muon and AdamW by label, tables that are tied at first
    kernels     which kernel runs where
    ranks       processes that train one model, and what they exchange
    nvidia_smi  what the driver tells
    preflight   what can be known of a GPU before a run
    precompile  kernels of packages, compiled beside
    machine     GPUs, CPU, calibration, environment.json
    checkpoint  what a checkpoint holds, whether it is whole, and whose it is
    rundir      the files a run leaves
    sinks       events shown in TensorBoard or W&B too
    stop        being told to leave
    clock       times of steps
    speed       tokens a second, stage by stage
    compile_cache   where compiled kernels are kept
    compilation     what was compiled, and when
    evaluate    validation loss and bits per byte
    core        the CORE metric
    snapshot    tensors of a checkpoint: device, host memory, file
    saver       when checkpoints are written, and the thread that does it
    roll_call   what ranks say at the end of each step, and hear at the same one
    lost_rank   which rank ended first
    restore     which checkpoint a resumed run goes on from
    trainer     model and optimizers on a device, one step at a time
    training    the loop of a run
    failure     what an exception means
    process     what processes that train share: command line, ends, exit codes
    train       one run, one process
    core_eval   CORE of a model that was trained
    val_eval    validation loss of a final checkpoint, whatever code trained it
    bounded     a call that may hang, and how long it may
    throttle    what holds a GPU's clock down
    smclock     a GPU's clock rate while it works
    probe       machines of a job, measured before it starts, over all its ranks
    health      what makes a slow rank visible
    council     what ranks tell each other between turns
    resident    a trainer that stands ready and steps only when told
    pace        the words that tell it, on stdin and stdout
"""
