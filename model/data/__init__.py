"""From text to packed rows of tokens: sources, tokenizer, token shards, packing plan, loader.

In the order of the flow:

    settings    what is asked for (standard library only)
    published   data sets that are downloaded: names of files, addresses (same)
    downloaded_files    which of their files are here, and the record of their hashes (same)
    meter       a download told as a bar or in lines
    download    one file over HTTP: resumed, tried again, checked
    fetch       all files of a published data set, several at once
    sources     which files there are, which are validation, whether they changed (same)
    documents   text out of those files, with errors that name file and line
    python_docs the embedded source: the English that ships with CPython
    token_file  `.bin` files of GPT-2 tokens
    tokenizer   trained by rustbpe, or GPT-2's own, or a file; encodes with tiktoken
    shards      token ids on disk, memory-mapped, hashed
    manifest    what a prepared folder holds, and `find_view` (standard library only)
    packing     which document goes into which row
    encode      source -> prepared folder: vocabulary, shards, manifest
    prepare     runs all of the above once; `open_prepared` opens the result
    loader      rows of a step as torch tensors, one step ahead
    atomic      whole-or-nothing writes, the lock, the full disk

Nothing is imported here, so that `model.describe` can read a manifest without numpy.
"""
