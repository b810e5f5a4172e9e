"""From text to packed rows of tokens: sources, tokenizer, token shards, packing plan, loader.

    settings         the data fields of a configuration (standard library only)
    published        data sets that can be downloaded: file names, addresses (same)
    downloaded       files of them on this machine, and the record of their hashes (same)
    progress         a download's progress: a bar, or a line every ten seconds
    download         one file over HTTP: resumed, retried, checked
    fetch            all files of a published data set, several at once
    sources          the files of a source, its validation split, whether it changed (same)
    documents        text of those files; errors name file and line
    python_docs      the embedded source: the English that ships with CPython
    token_file       `.bin` files of GPT-2 tokens
    tokenizer        trained by rustbpe, GPT-2's, or a file; encodes with tiktoken
    shards           token ids on disk, memory-mapped, hashed
    manifest         contents of a prepared folder, and `find_view` (standard library only)
    packing          which document goes into which row
    encode           source -> prepared folder: vocabulary, shards, manifest
    prepare          runs all of the above once; `open_prepared` opens the result
    rows             packed rows of token ids
    loader           rows of a step as torch tensors, one step ahead
    atomic           atomic writes, the lock, disk errors

Imports nothing, so that `model.describe` can read a manifest without numpy.
"""
