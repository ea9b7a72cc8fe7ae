"""The commitment to the state: the tree behind `state_root`, kept up to date block by block.

`trellis.statetree` says what a root means and checks proofs; here roots and proofs are made. Start reading at `bucket`
(one bucket is one byte string, in memory and on disk), then `tree` (the levels above, and updates that nobody has
committed yet), then `versions` (a state that can be read, extended, proven and dropped: what executing code holds).
"""
