"""What a job needs before it starts, looked at without starting anything: `python -m model.needs`.

    plan        batch, ranks, horizon: what the configuration alone says
    packages    what has to be installed
    gpus        those of this machine, as the driver tells them
    stock       which shards, downloads and files of text are here, and whole
    data        the same against the tokens that the job takes
    vocabulary  where the tokenizer comes from
    bundle      the CORE metric's tasks
    disk        checkpoints against the room of the run's file system
    reach       whether an address answers

Each file looks at one thing and gives findings (model/finding.py); `__main__` puts them together.
The trainer judges its own needs, so that whoever starts it knows no field of its configuration. No
torch, and no GPU is touched: it takes seconds, on a machine without GPUs too, and `model.probe`
looks at the rest. What a look would cost minutes for, every byte of every shard, is compared with
`--hashes`.
"""
