"""The gRPC control plane: wallets and operators talk to the node here. Start reading at `port.py`, then `server.py`."""
