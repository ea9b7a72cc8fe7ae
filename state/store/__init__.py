"""What a node keeps on its disk, and the one place where the ledger meets the operating system.

`store` is the small interface (tables, batches, snapshots) with two implementations: `lmdb_store` and `memory`. `chain`
keeps a chain in it: one atomic transaction a block. `reader` serves what is kept to other threads. `open` opens a
directory and says clearly what is wrong with it. Only `lmdb_store` imports the storage engine.
"""
