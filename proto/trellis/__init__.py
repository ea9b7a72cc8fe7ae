"""Trellis as a wallet sees it: keys, addresses, transactions, certificates, finality receipts, and the client.

Importing this package imports nothing else. Ask for the module you need: `trellis.transaction`, `trellis.receipt`,
`trellis.client`. All but `trellis.client`, `trellis.v1`, `trellis.crypto.keystore` and `trellis.crypto.verifier` are
pure: they read no clock, draw no randomness and touch no file, so the consensus core may stand on them.
"""

from __future__ import annotations

__version__ = "0.1.0"
