"""The CORE metric: 22 tasks of in-context learning, decided as one example at a time would be.

    task           a task: file, kind, shots, delimiter, baselines; kinds of items
    published      the 22 tasks of DCLM, hashes and address of their files
    bundle         a folder in nanochat's layout, read and checked
    fetch          downloads the published bundle
    prompts        items and shots as text (standard library only, as all above)
    questions      every prompt as tokens, with the prefix that a question's rows share
    prompt_cache   questions on disk, by vocabulary, bundle and settings
    layout         rows of similar length in batches; batches over ranks
    eval_model     the model in eager mode, with a shared-prefix KV cache
    score          batches through the model: loss and gap of every scored token
    outcomes       losses -> decisions, accuracies, CORE and core_soft, with standard errors
    outcomes_file  outcomes on disk: core.parquet
    evaluation     all of it, for the trainer and the command line
    table          the result as a table on a terminal
    source         loads a model to evaluate without training

The metric is that of DCLM (Li and others, arXiv 2406.11794), evaluated as in nanochat (@karpathy).
Imports nothing, so that the torch-free modules do not import torch.
"""
