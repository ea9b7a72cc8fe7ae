"""Pays from the account that a local network's genesis funds for everybody."""

from __future__ import annotations

from typing import Any

from node.home import read_genesis
from node.localnet.layout import PASSWORD, Folder, LocalnetFault, Manifest
from trellis.address import format_address, parse_address
from trellis.client import Client, ClientError, LocalSigner
from trellis.crypto.keystore import read_keystore
from trellis.encoding import DecodeError


def pay(folder: Folder, manifest: Manifest, address: str, amount: str) -> dict[str, Any]:
    """Final when it returns, and proven so."""
    try:
        recipient = parse_address(address)
    except DecodeError as fault:
        raise LocalnetFault(f"{address} is no address: {fault.detail}", "make a key: trellis keys new") from fault
    signer = LocalSigner(read_keystore(folder.faucet_path).unlock(PASSWORD))
    genesis = read_genesis(folder.genesis_path)
    endpoints = [entry.grpc_address for entry in manifest.nodes]
    try:
        with Client(endpoints, trust=genesis) as client:
            sent = client.send(to=recipient, amount=client.amount(amount), signer=signer)
            finality = client.wait(sent.txid)
            return {
                "to": format_address(recipient),
                "amount": amount,
                "txid": sent.txid.hex(),
                "height": finality.height,
                "outcome": finality.outcome.name,
                "balance_base_units": client.balance(recipient),
            }
    except (ClientError, ValueError) as fault:
        raise LocalnetFault(f"the payment was not made: {fault}", "see: trellis localnet status") from fault
