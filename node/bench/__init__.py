"""Measures a network from outside, as its users meet it: `trellis bench`.

Load is open-loop: transactions are due at times fixed beforehand, and each one's time to finality counts from when it
was due, so that a slow network cannot hide by slowing the generator down. Everything is signed before the clock starts.
What became final is counted at a node that was not submitted to, and no figure is reported if a transaction that a node
had admitted was lost or appeared twice.

`target` is the network under test, `signing` makes and keeps signed transactions, `blocks` watches what becomes final,
`load` and `probes` are the measurements, `usage` reads what processes take, `figures` sums up.
"""
