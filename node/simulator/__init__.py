"""The deterministic simulator: n production replicas on one heap, and one seed that draws everything.

A world holds hosts; a host drives one `consensus.Replica` exactly as the core's manual says, over a simulated disk, a
simulated network and a stand-in ledger. Nothing reads the real clock or real chance: the same seed gives the same
trace, byte for byte. Signatures are stand-ins (real ones are hedged and would break replay).
"""
