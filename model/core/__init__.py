"""The CORE metric: 22 tasks of in-context learning, the same decisions as one example at a time.

In the order of the flow:

    task        what a task is: its file, kind, shots, delimiter, baselines; kinds of items
    published   the 22 tasks of DCLM, hashes of their files, where they are published
    bundle      a folder in nanochat's layout, read and checked
    fetch       the published bundle, brought here
    prompts     items and shots as text (standard library only, as all above)
    questions   every prompt as tokens, once, with what a question's rows share
    kept        questions on disk, by vocabulary, bundle and settings
    layout      rows of about one length in batches; batches over ranks
    twin        the model again, eager, for rows that follow a prefix which stands elsewhere
    score       batches through the model: loss and gap of every token that counts
    outcomes    losses -> decisions, accuracies, CORE and core_soft, with standard errors
    file        outcomes on disk: core.parquet
    evaluation  all of it, for the trainer and the command line
    table       what it says on a terminal
    source      a model to evaluate without training it

The metric is that of DCLM (Li and others, arXiv 2406.11794), evaluated as nanochat does
(@karpathy). Nothing is imported here, so that the torch-free parts stay so.
"""
