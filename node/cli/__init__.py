"""The command line: `trellis`. Each command lives in its own module and is loaded only when it is used."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Final

import click

from node.cli.exits import CommandFailed, Exit
from node.cli.format import output_option
from node.cli.lazy import Commands, LazyGroup

_COMMANDS: Final[Commands] = {
    "account": ("node.cli.account:account", "Show an account, if asked for with proof, and its history."),
    "bench": ("node.cli.bench:bench", "Measure a network under real load."),
    "block": ("node.cli.block:block", "Show a block and its transactions."),
    "completion": ("node.cli.completion:completion", "Shell completion for bash, zsh and fish."),
    "config": ("node.cli.config:config", "Show or check a node's configuration."),
    "debug": ("node.cli.debug:debug", "Gather what a bug report needs."),
    "demo": ("node.cli.demo:demo", "Guided tours of consensus: four nodes, a traitor, a thousand."),
    "evidence": ("node.cli.evidence:evidence", "List and explain proofs of misbehaviour."),
    "export": ("node.cli.export:export", "Write blocks or state as JSON lines."),
    "genesis": ("node.cli.genesis:genesis", "Make, check and hash genesis documents."),
    "init": ("node.cli.init:init", "Make a node's folder for a network."),
    "inspect": ("node.cli.inspect:inspect", "Look into a stopped node's folder."),
    "join": ("node.cli.join:join", "Make a node's folder for a running network, from one address."),
    "keys": ("node.cli.keys:keys", "Make, import, export, list and certify keys."),
    "localnet": ("node.cli.localnet:localnet", "A network of real nodes on this machine: start, watch, break, stop."),
    "p2p": ("node.cli.p2p:p2p", "Try the network out: listen, connect, ping, publish."),
    "peers": ("node.cli.peers:peers", "List, add, ban and unban a node's peers."),
    "proof": ("node.cli.proof:proof", "Post statements, claim their bounties with proofs."),
    "rollback": ("node.cli.rollback:rollback", "Undo a stopped node's last blocks."),
    "sim": ("node.cli.sim:sim", "Simulate consensus under faults, from seeds that replay."),
    "snapshot": ("node.cli.snapshot:snapshot", "Make and list snapshots of the state."),
    "start": ("node.cli.start:start", "Run a node."),
    "status": ("node.cli.status:status", "Show whether a node is well."),
    "testnet": ("node.cli.testnet:testnet", "Make the folders of a test network."),
    "tx": ("node.cli.tx:tx", "Send transactions, wait for them, prove them."),
    "validators": ("node.cli.validators:validators", "List the validators."),
    "version": ("node.cli.version:version", "Show the versions of Trellis and of what it stands on."),
}


@click.group(
    cls=LazyGroup,
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "TRELLIS", "max_content_width": 110},
)
@output_option
def trellis() -> None:
    """A permissioned, post-quantum BFT ledger node, and what its users and operators need.

    Every command has a page: trellis COMMAND --help. Every option can be set in the environment as well, as
    TRELLIS_COMMAND_OPTION, and where a page names a variable, by that one. Passwords and tokens come from prompts,
    files and the environment, never from the command line.

    \b
    Examples:
      trellis testnet generate --out net          folders for a test network of four
      trellis start --home net/node0              run one of them
      trellis status                              ask the node on this machine how it is
      trellis tx send trl1… 12.5 --from alice     pay somebody
      trellis --output json block latest          for programs

    \b
    Exit codes:
      0    done
      1    the command worked, and the answer is no
      2    wrong usage; nothing was done
      3    not found
      4    no node answered
      5    a node answered, and refused
      6    timed out
      7    a file or key on this machine
      8    a node gave an answer that no honest node gives
      70   a fault of ours
      130  interrupted
    """


def main() -> None:
    """The console script. Errors end with lines that say what to do, never with a traceback."""
    output = sys.stdout
    try:
        code = trellis.main(prog_name="trellis", standalone_mode=False)
    except CommandFailed as failure:
        failure.show()
        sys.exit(failure.code)
    except click.UsageError as misuse:
        misuse.show()
        sys.exit(Exit.USAGE)
    except click.ClickException as failure:
        failure.show()
        sys.exit(Exit.LOCAL)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(Exit.INTERRUPTED)
    except SystemExit as end:
        # Where whoever read our output went away, as `head` does, click puts a silent stream in the output's place and
        # ends with 1, which would mean "no" here.
        sys.exit(end.code if sys.stdout is output else Exit.OK)
    except Exception as fault:  # whatever is left is ours: a bare traceback helps nobody who runs a node
        _own_fault(fault).show()
        sys.exit(Exit.INTERNAL)
    sys.exit(code if isinstance(code, int) else Exit.OK)


def _own_fault(fault: Exception) -> CommandFailed:
    if os.environ.get("TRELLIS_TRACEBACK"):
        click.echo("".join(traceback.format_exception(fault)), err=True)
    where = traceback.extract_tb(fault.__traceback__)[-1]
    return CommandFailed(
        Exit.INTERNAL,
        f"a fault of ours: {type(fault).__name__} in {where.name}, line {where.lineno}: {fault}",
        "run it again with TRELLIS_TRACEBACK=1, and report what it prints with: trellis debug dump --home DIR",
    )
