"""Peer to peer: the post-quantum handshake, the libp2p transport and host, gossip, sync, discovery.

- `p2p.handshake`: the handshake as a sans-IO state machine; `p2p.records`: what follows it on the wire, sans-IO too;
- `p2p.muxguard`: what a peer may do inside yamux; `p2p.selection`: multistream-select with bounds;
- `p2p.keys`, `p2p.transport`, `p2p.wiring`: the files that know libp2p;
- `p2p.host`: `Host`, which everything above stands on: plain byte streams to authenticated peers;
- `p2p.limits`, `p2p.dialing`: who may knock how often, and whom we call when.

This package imports no sibling but `trellis`. Its specification is the README.md beside this file.
"""
