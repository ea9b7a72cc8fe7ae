"""Every rule of the core by its number: what is observed, refused or done always cites one of these.

Numbers C1–C12 are the protocol's; the digits after the dot tell the branches of a rule apart. `consensus/README.md`
gives each its origin.
"""

from __future__ import annotations

from enum import Enum, unique


@unique
class Rule(Enum):
    """A branch of the protocol. `number` is stable, `sentence` is for people."""

    number: str
    sentence: str

    def __init__(self, number: str, sentence: str) -> None:
        self.number = number
        self.sentence = sentence

    def __str__(self) -> str:
        return f"{self.number} {self.name}"

    STARTED = ("C1.1", "a height starts once the one before is committed and executed; its view is 0")
    NOT_A_MEMBER = ("C1.2", "refused: the signer has no power at this height")
    OTHER_HEIGHT = ("C1.3", "ignored: what is signed for another height has no effect here")
    WITHOUT_A_VOTE = ("C1.4", "this replica follows the height without voting: no member, or observing")

    LEADER = ("C2.1", "this replica leads the view and asks its host for a block")
    BLOCK_TOO_LATE = ("C2.2", "the host's block came after the view it was made for")

    RESTARTED = ("C3.1", "votes, lock and view of this height came back from the log")
    RESTART_ACCEPTED = ("C3.2", "a logged PREPARE or COMMIT restores the accepted hash of its view")
    RESTART_ARMED = ("C3.3", "a logged vote or lock arms view 0")
    RESTART_VIEW_CHANGE = ("C3.4", "in a view above 0 the own VIEW-CHANGE is signed and sent before anything else")
    RESTART_SIGNED_AGAIN = ("C3.5", "a logged vote of the current view is signed again")
    LOG_AHEAD = ("C3.6", "the log holds votes of a later height than the chain: no vote until the chain is there")

    PROPOSED = ("C4.1", "PRE-PREPARE made durable, signed and sent")
    NEW_VIEW = ("C4.2", "NEW-VIEW: the PRE-PREPARE carries its justification and one prepared certificate")

    ACCEPTED = ("C5.1", "PRE-PREPARE accepted")
    ACCEPTED_AHEAD = ("C5.2", "a justified NEW-VIEW of a later view moves this replica up before it PREPAREs")
    STALE_VIEW = ("C5.3", "refused: the view is below the own view")
    NOT_THE_LEADER = ("C5.4", "refused: the signer does not lead the view")
    ALREADY_ACCEPTED = ("C5.5", "refused: another block was accepted in this view")
    REPEATED = ("C5.6", "ignored: the same content was seen before")
    HASH_MISMATCH = ("C5.7", "refused: the vote does not name the header that came with it")
    FOREIGN_HEADER = ("C5.8", "refused: the header is of another chain or height")
    WRONG_PROPOSER = ("C5.9", "refused: header.proposer is not the leader of header.view")
    PARENT_CERTIFICATE_MISMATCH = ("C5.10", "refused: the parent certificate is not the one that the header names")
    UNEXPECTED_JUSTIFICATION = ("C5.11", "refused: view 0 takes neither justification nor prepared certificate")
    WRONG_HEADER_VIEW = ("C5.12", "refused: a fresh block is created in the view that proposes it")
    FOREIGN_ENTRY = ("C5.13", "refused: a justification entry is not a VIEW-CHANGE for exactly this height and view")
    REPEATED_SIGNER = ("C5.14", "refused: two justification entries of one validator")
    NO_QUORUM = ("C5.15", "refused: the justification lacks quorum power")
    PREPARED_TOO_HIGH = ("C5.16", "refused: a prepared view is not below the view that is changed to")
    UNPROVEN_PREPARED = ("C5.17", "refused: the highest prepared view comes without its valid certificate")
    NOT_THE_PREPARED_BLOCK = ("C5.18", "refused: the highest prepared block must be proposed again")
    HEADER_ABOVE_PREPARED = ("C5.19", "refused: the re-proposed header was created after the view that prepared it")
    NEEDLESS_CERTIFICATE = ("C5.20", "refused: a prepared certificate beside votes that name no prepared view")
    PREPARED_NOT_COUNTED = ("C5.21", "the leader does not count a prepared view without its valid certificate")
    JUSTIFIED = ("C5.22", "the leader holds a justification for its view")

    CHECK_ASKED = ("C6.1", "the accepted block is validated before it is PREPAREd, re-proposals too")
    PREPARED_VOTE = ("C6.2", "PREPARE of the accepted, validated, durable block")
    BLOCK_REFUSED = ("C6.3", "no PREPARE: this replica found the block invalid")
    WITHHELD_COMMIT = ("C6.4", "no PREPARE in view 0: the last proposer carries a certificate that hides a view change")
    PREPARE_OF_REFUSED = ("C6.5", "a validator PREPAREd a block that this replica found invalid")
    LATE_VERDICT = ("C6.6", "ignored: the verdict is on a block or view of no interest any more")

    LOCKED = ("C7.1", "quorum PREPAREd the accepted block: the lock is durable, then COMMIT")
    OTHER_VIEW_PREPARED = ("C7.2", "PREPAREs of another view never change the lock")

    DECIDED = ("C8.1", "quorum COMMITs of one view, or a certificate, and the validated block: decided")
    CERTIFIED = ("C8.2", "quorum COMMITs of one view for one block")
    CERTIFICATE_HEARD = ("C8.3", "a valid certificate of this height")
    BODY_MISSING = ("C8.4", "certified, but not validated here: not decided yet")
    ANSWERED = ("C8.5", "a message for a decided height is answered with the certificate")
    ANSWER_WITHHELD = ("C8.6", "not answered: the peer had its answers for now, or its message was merely late")
    LATE_COMMIT = ("C8.7", "a COMMIT after the decision joins the certificate that the next block may carry")
    BAD_CERTIFICATE = ("C8.8", "refused: the certificate's kind or shape proves nothing")

    SUPERSEDED = ("C9.1", "no vote below the view of the own VIEW-CHANGE")

    TIMED_OUT = ("C10.1", "the view timer fired: up one view")
    JOINED = ("C10.2", "more than a third of power asks for later views: up with them")
    LOWER_VIEW_CHANGE = ("C10.3", "ignored: a later VIEW-CHANGE of that validator is known")
    SENT_AGAIN = ("C10.4", "own current messages are sent again")
    RECONNECTED = ("C10.5", "own current messages and height go to a validator whose lane opened")
    HEIGHT_TOLD = ("C10.6", "the own height is told at the heartbeat")
    MALFORMED_VIEW_CHANGE = ("C10.7", "refused: the VIEW-CHANGE contradicts itself")

    ARMED_BY_PROPOSAL = ("C11.1", "an accepted PRE-PREPARE arms the view timer")
    ARMED_BY_WORK = ("C11.2", "work older than the block interval, forwarded to all, arms view 0")
    ARMED_BY_HEARTBEAT = ("C11.3", "the heartbeat interval arms view 0")
    ARMED_BY_QUORUM = ("C11.4", "quorum power is known at this view or above: its timer starts")
    SHORTENED = ("C11.5", "the lane to the leader is closed: the view timer is 300 ms at most")
    BASE_DOUBLED = ("C11.6", "decided in a view above 0: the base timeout doubles")
    BASE_DECAYED = ("C11.7", "decided in view 0: the base timeout decays")
    BASE_MEASURED = ("C11.8", "the base timeout follows the measured quorum round trip")
    STALE_TIMER = ("C11.9", "ignored: a timer that is no longer armed")

    BUFFERED_VIEW = ("C12.1", "a vote of a later view waits: one a validator and kind, the highest view")
    BUFFERED_HEIGHT = ("C12.2", "a message of the next height waits: one a validator and kind, the highest view")
    BUFFER_REFUSED = ("C12.3", "refused by the buffer: too large, of a lower view, or seen")
    BUFFER_DROPPED = ("C12.4", "the validator set changed: what was verified against the old one is dropped")
    BEHIND = ("C12.5", "more than a third of power, or a certificate, is at greater heights: catch up")
    CAUGHT_UP = ("C12.6", "the host caught up; lock and votes of an undecided height stay as they are")

    BAD_SIGNATURE = ("V.1", "refused by the host: a signature or certificate does not verify")

    GUARD_LOWER = ("G.1", "the guard refuses: a smaller height or view than was signed")
    GUARD_OTHER_HASH = ("G.2", "the guard refuses: another hash was signed in this view")
    GUARD_OTHER_VIEW_CHANGE = ("G.3", "the guard refuses: another VIEW-CHANGE was signed for this view")
    GUARD_LOCK = ("G.4", "the guard refuses: the VIEW-CHANGE names less than the last COMMIT of this height")
    GUARD_STEP = ("G.5", "the guard refuses: the VIEW-CHANGE comes after votes of the view it moves to")
    TWIN = ("G.7", "a valid vote of this validator that its log does not know: something else signs with its key")
    OBSERVING_ENDED = ("G.6", "the host lets this replica vote")

    EVIDENCE_CONFLICT = ("E.1", "(a), (a2): one validator signed two contents where one is allowed")
    EVIDENCE_LOCK_LIE = ("E.2", "(b): a VIEW-CHANGE denies the lock that a COMMIT took")
    SILENT = ("E.3", "a validator signed nothing for several heights: reputation falls, no further than the ban line")
    LEADER_TIMED_OUT = ("E.4", "the leader let its view pass")

    FORK = ("F.1", "two certified blocks at one height: keep both certificates, stop")
    CERTIFIED_BUT_INVALID = ("F.2", "quorum power certified a block that this replica finds invalid: stop")
    HIGHEST_PREPARED_WINS = ("F.3", "among unfinalised proposals the one with the highest prepared view is proposed")
