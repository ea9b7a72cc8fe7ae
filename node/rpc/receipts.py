"""Changes of the validator set, and receipts that lead over them to a transaction."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from node.rpc.blocks import LoadedBlock
from node.rpc.errors import Reason, Refused
from node.rpc.fields import pruned
from state.chain import read_network
from state.store.reader import ChainReader
from trellis.certificate import Certificate
from trellis.header import Header
from trellis.outcome import Outcome
from trellis.receipt import FinalityReceipt, Transition
from trellis.types import Hash, Height
from trellis.validators import ValidatorSet


class Transitions:
    """Where the set changes. It can only at the end of an epoch, so one header an epoch is looked at, once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._heights: list[Height] = []
        self._looked_to = 0

    def heights(self, reader: ChainReader, above: int, upto: int) -> list[Height]:
        """Of the last blocks under a set, above < height ≤ upto, ascending."""
        epoch = read_network(reader).parameters.epoch_blocks
        tip, lowest = reader.tip.height, reader.bounds.first_header
        if above + 1 < lowest:
            raise pruned(above + 1, lowest)
        with self._lock:
            start = max(self._looked_to, lowest - 1)
            for height in range((start // epoch + 1) * epoch, tip + 1, epoch):
                header = reader.header(Height(height))
                if header is not None and header.next_validators_hash != header.validators_hash:
                    self._heights.append(Height(height))
                self._looked_to = height
            return [height for height in self._heights if above < height <= upto]


class Receipts:
    """Any thread."""

    def __init__(self, validators: Callable[[Hash], ValidatorSet | None]) -> None:
        self._validators = validators
        self.transitions = Transitions()

    def transition(self, reader: ChainReader, height: Height) -> Transition:
        header, certificate = certified(reader, height)
        following = self._validators(header.next_validators_hash)
        if following is None:
            raise Refused(
                Reason.HEIGHT_PRUNED,
                f"this node does not hold the validator set of height {height + 1}: ask another, or use a checkpoint",
                {"lowest_height": str(height + 1)},
            )
        return Transition(header, certificate, following)

    def make(self, reader: ChainReader, loaded: LoadedBlock, index: int, checkpoint: Height) -> bytes:
        """The receipt's canonical bytes."""
        height = loaded.header.height
        header, certificate = certified(reader, height)
        result = loaded.results[index]
        changes = self.transitions.heights(reader, checkpoint, height - 1)
        return FinalityReceipt(
            body=loaded.block.transactions[index].body,
            outcome=Outcome(result.outcome),
            fee=result.fee,
            path=loaded.path(index),
            header=header,
            certificate=certificate,
            transitions=tuple(self.transition(reader, change) for change in changes),
        ).encode()


def certified(reader: ChainReader, height: Height) -> tuple[Header, Certificate]:
    header, certificate = reader.header(height), reader.certificate(height)
    if header is None or certificate is None:
        raise Refused(Reason.NOT_FOUND, f"this node holds no certificate of block {height}: ask another")
    return header, certificate
