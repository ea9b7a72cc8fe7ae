"""A network of real processes on this machine, for development and for measuring: `trellis localnet`.

One folder holds everything: genesis, a home for each validator, a faucet, a seed of funded accounts, process ids, logs.
Whoever opens the folder sees the network as it is: there is no daemon that knows more, and `down` works whatever
happened to the command that started it.

`layout` says what lies where, `making` creates it, `processes` starts and ends what runs, `proxy` stands between nodes
where links are to be cut or slowed, `faults` does that on request, `samples` reads the nodes' metrics and `screen`
shows them.
"""
