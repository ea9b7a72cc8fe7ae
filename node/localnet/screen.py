"""Shows a running local network: a table that is drawn again on terminals, lines anywhere else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from node.localnet.layout import HOST, Folder, Manifest, NodeEntry
from node.localnet.processes import State, find, last_lines
from node.localnet.rules import read_rules
from node.localnet.samples import Watch

_STYLES = {State.RUNNING: "green", State.FROZEN: "cyan", State.DEAD: "red"}
COLUMNS = ("node", "state", "height", "view", "finality p50 ms", "p99 ms", "tx/s", "peers", "mempool")


@dataclass(frozen=True, slots=True)
class Row:
    """One node at one moment. None where it did not say."""

    node: str
    state: State
    answers: bool
    height: int | None
    view: int | None
    finality_p50_ms: float | None
    finality_p99_ms: float | None
    tps: float | None
    peers: int | None
    mempool: int | None

    def cells(self) -> list[str]:
        state = self.state if self.answers or self.state is not State.RUNNING else "starting"
        numbers = (
            self.height,
            self.view,
            self.finality_p50_ms,
            self.finality_p99_ms,
            self.tps,
            self.peers,
            self.mempool,
        )
        return [self.node, str(state), *("–" if number is None else f"{number:.0f}" for number in numbers)]


def rows(folder: Folder, manifest: Manifest, watch: Watch) -> list[Row]:
    return [_row(folder, entry, watch) for entry in manifest.nodes]


def _row(folder: Folder, entry: NodeEntry, watch: Watch) -> Row:
    found, window = find(folder, entry.name), watch.windows[entry.name]
    state = State.DEAD if found is None else found.state
    last = window.last
    if last is None or state is State.DEAD:
        return Row(entry.name, state, False, None, None, None, None, None, None, None)
    return Row(
        entry.name,
        state,
        True,
        last.height,
        last.view,
        window.finality_ms(0.5),
        window.finality_ms(0.99),
        window.tps,
        last.peers,
        last.mempool,
    )


def as_json(all_rows: Sequence[Row]) -> str:
    return json.dumps([asdict(row) for row in all_rows])


def line(all_rows: Sequence[Row]) -> str:
    """Everything about one moment in one line."""
    parts = []
    for row in all_rows:
        name, state, height, view, p50, p99, tps, peers, mempool = row.cells()
        if row.answers:
            parts.append(f"{name} h{height} v{view} {p50}/{p99} ms {tps} tx/s {peers} peers {mempool} waiting")
        else:
            parts.append(f"{name} {state}")
    return " | ".join(parts)


def table(all_rows: Sequence[Row]) -> Table:
    shown = Table(box=None, pad_edge=False)
    for place, column in enumerate(COLUMNS):
        shown.add_column(column, justify="left" if place < 2 else "right")
    for row in all_rows:
        name, state, *numbers = row.cells()
        shown.add_row(Text(name, "bold"), Text(state, _STYLES[row.state]), *map(Text, numbers))
    return shown


def whole(folder: Folder, manifest: Manifest, all_rows: Sequence[Row]) -> Group:
    """The live view: the table, then what is wrong and what to do."""
    return Group(table(all_rows), *(Text(sentence, "yellow") for sentence in troubles(folder, manifest, all_rows)))


def troubles(folder: Folder, manifest: Manifest, all_rows: Sequence[Row]) -> list[str]:
    found = []
    for row in all_rows:
        if row.state is State.DEAD:
            said = "".join(f"\n    {text}" for text in last_lines(folder.log_path(row.node), 1))
            found.append(
                f"{row.node} is dead; start it: trellis localnet faults restart {row.node} --home {folder.path}{said}"
            )
    if manifest.links:
        found.extend(read_rules(folder.rules_path).describe())
    return found


def addresses(folder: Folder, manifest: Manifest) -> list[str]:
    """Where everything is, and lines to paste."""
    lines = [f"folder   {folder.path}", f"genesis  {manifest.genesis_hash}", ""]
    for entry in manifest.nodes:
        lines.append(
            f"{entry.name}    gRPC {entry.grpc_address}   metrics http://{entry.metrics_address}/metrics   "
            f"p2p {HOST}:{entry.p2p}   log {folder.log_path(entry.name)}"
        )
    at = manifest.nodes[0].grpc_address
    service = "trellis.v1"
    home = f" --home {folder.path}"
    return [
        *lines,
        "",
        f"grpcurl -plaintext {at} list",
        f"grpcurl -plaintext {at} {service}.FinalityService/GetFinality",
        f"grpcurl -plaintext {at} {service}.NodeService/ListPeers",
        f"grpcurl -plaintext {at} {service}.SubscriptionService/SubscribeBlocks",
        "",
        f"trellis localnet fund trl1… 100{home}",
        f"trellis localnet faults kill {manifest.nodes[-1].name}{home}",
    ]
