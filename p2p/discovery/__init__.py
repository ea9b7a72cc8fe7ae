"""Finding peers: configuration, DNS and JSON seeds, mDNS, and what peers tell of each other.

- `addresses`: multiaddresses as text, and which of them a stranger may make us dial;
- `records`: signed address records, made and judged; `table`: whose records are kept, by XOR distance;
- `lookup`: finding one peer among many, sans-IO, over disjoint paths; `exchange`: the two messages it takes;
- `seeds`: TXT records and JSON documents; `mdns`: the local network, off by default;
- `service`: `Discovery`, which joins them to a host, a peer book and requests.

Nothing learned here is believed beyond where to dial: who a peer is, the handshake proves.
"""
