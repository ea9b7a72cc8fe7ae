"""Faults on request: to processes by signals, to links by rules that the proxy obeys."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Final

from node.localnet.layout import Folder, LocalnetFault, Manifest
from node.localnet.processes import PROXY, State, find, signal_to, start, stop, wait_until
from node.localnet.rules import LinkRules, read_rules, write_rules

APPLY_S: Final = 5.0


def kill(folder: Folder, nodes: Sequence[str]) -> None:
    """Without warning, as a power cut would."""
    for name in nodes:
        signal_to(folder, name, signal.SIGKILL)
        wait_until(lambda name=name: find(folder, name) is None, APPLY_S)  # type: ignore[misc] # binds the loop's name


def freeze(folder: Folder, nodes: Sequence[str]) -> None:
    """The process stops where it is; its connections stay open and silent."""
    for name in nodes:
        signal_to(folder, name, signal.SIGSTOP)


def thaw(folder: Folder, nodes: Sequence[str]) -> None:
    for name in nodes:
        signal_to(folder, name, signal.SIGCONT)


def restart(folder: Folder, nodes: Sequence[str]) -> None:
    """Stops what still runs, and starts all of them."""
    stop(folder, nodes)
    for name in nodes:
        start(folder, name)


def partition(folder: Folder, manifest: Manifest, nodes: Sequence[str]) -> LinkRules:
    """Cuts the named nodes off from all others."""
    if len(set(nodes)) == len(manifest.nodes):
        raise LocalnetFault("all nodes are named: there is nobody to cut them off from", "name one side only")
    return _apply(folder, manifest, _rules(folder).partition(nodes, [entry.name for entry in manifest.nodes]))


def delay(folder: Folder, manifest: Manifest, nodes: Sequence[str], delay_ms: int) -> LinkRules:
    """Each message to or from the named nodes takes that much longer. 0 ends it."""
    return _apply(folder, manifest, _rules(folder).delayed(nodes, delay_ms))


def heal(folder: Folder, manifest: Manifest) -> list[str]:
    """Everything as it was: links whole, frozen nodes thawed, dead ones started. Answers with what was done."""
    done = []
    if manifest.links:
        done = [f"undone: {fault}" for fault in _rules(folder).describe()]
        if find(folder, PROXY) is None:
            start(folder, PROXY)
            done.append("started the proxy")
        _apply(folder, manifest, _rules(folder).healed())
    for entry in manifest.nodes:
        found = find(folder, entry.name)
        if found is None:
            start(folder, entry.name)
            done.append(f"started {entry.name}")
        elif found.state is State.FROZEN:
            thaw(folder, [entry.name])
            done.append(f"thawed {entry.name}")
    return done


def _rules(folder: Folder) -> LinkRules:
    try:
        return read_rules(folder.rules_path)
    except ValueError as fault:
        raise LocalnetFault(str(fault), f"remove it: rm {folder.rules_path}") from fault


def _apply(folder: Folder, manifest: Manifest, rules: LinkRules) -> LinkRules:
    """Returns once the proxy obeys."""
    if not manifest.links:
        raise LocalnetFault(
            "the nodes of this network talk to each other directly: there is nothing to cut or slow",
            "start one with proxies between them: trellis localnet down --purge, then trellis localnet up --proxied",
        )
    if find(folder, PROXY) is None:
        raise LocalnetFault("the proxy is not running", "start what is missing: trellis localnet faults heal")
    write_rules(folder.rules_path, rules)

    def in_force() -> bool:
        return folder.applied_path.exists() and folder.applied_path.read_text().strip() == str(rules.generation)

    if not wait_until(in_force, APPLY_S):
        raise LocalnetFault(f"the proxy did not take the rules within {APPLY_S:.0f} s", f"see {folder.proxy_log}")
    return rules
