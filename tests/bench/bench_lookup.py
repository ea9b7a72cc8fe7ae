"""Finding peers among liars: how many targets are found, in how many hops, for how many questions.

A hop is a question on the path that found the target: these wait for one another. Tables, signed records and lookups
are the real ones; the wire is a function call. The targets are honest peers that the asker's own table does not have.
"""

from __future__ import annotations

import argparse
import math
import sys

import trio

from p2p.discovery.table import key_of
from tests.p2p.discovery_net import Liar, SimulatedNetwork


async def measure(nodes: int, liars: int, kind: Liar | None, lookups: int, seed: int) -> str:
    kinds = list(Liar)
    told = [kind or kinds[place % len(kinds)] for place in range(liars)]
    net = SimulatedNetwork(nodes, told, seed)
    await net.grow()
    most = 2 * math.log2(nodes)
    hops: list[int] = []
    questions = tried = found = 0
    while tried < lookups:
        asker, target = net.chance.sample(net.honest, 2)
        if target.peer in asker.table:
            continue
        lookup = await asker.look_up(key_of(target.peer), wanted=target.peer)
        tried += 1
        questions += lookup.asked
        if lookup.found is not None:
            hops.append(lookup.hops)
            found += lookup.hops <= most
    hops.sort()
    kept = sum(len(node.table) for node in net.honest) // len(net.honest)
    name = "none" if not liars else str(kind or "all kinds")
    return (
        f"{nodes:5}  {liars / nodes:5.0%} {name:10} {found / tried:7.1%} in ≤ {most:.1f} hops   "
        f"p50 {hops[len(hops) // 2]}, p99 {hops[len(hops) * 99 // 100]}, most {hops[-1]}   "
        f"{questions / tried:5.1f} questions   {kept} of {nodes - 1} in a table"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lookups", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args(arguments or [])
    print("nodes  liars                found")
    for nodes, liars, kind in (
        (50, 0, None),
        (50, 10, None),
        *((50, 10, each) for each in Liar),
        (200, 40, None),
        (200, 40, Liar.FRIENDS),
    ):
        print(trio.run(measure, nodes, liars, kind, chosen.lookups, chosen.seed), flush=True)
    print("goal: 50 nodes, 20 % liars: at least 95 % in at most 2·log2 n hops")


if __name__ == "__main__":
    main(sys.argv[1:])
