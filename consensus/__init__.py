"""The PBFT core: a pure state machine that decides one block a height. This is the manual for whoever hosts it.

The core never waits, logs, reads a clock, draws randomness, signs or verifies. The host does all of that, in a loop:

    replica = Replica.restore(me, genesis_hash, records_of_the_log)      # or Replica(me, genesis_hash) on a first start
    run(replica.step(HeightStarted(...)))                                # the state after the last committed block
    for event in everything_that_happens:
        run(replica.step(event))

    def run(effects):
        for effect in effects:                                           # strictly in this order
            match effect:
                case Persist(record):         append encode_record(record) to the log, make it durable
                case Broadcast(message):      guard, sign, send to all, feed MessageReceived(signed_by(message, s), me)
                case SendAll(message):        send to all others, unchanged
                case Send(to, message):       send to one, unchanged
                case AnswerDecided(to, h):    send DecidedNotice(stored certificate of h) to one
                case ArmTimer(timer, delay):  replace the timer of timer.kind; later feed TimerFired(timer)
                case DisarmTimer(kind):       forget it
                case RequestBlock(...):       make (or fetch) a block, feed BlockProposed
                case CheckBlock(...):         fetch the body, validate, make it durable, feed BlockChecked
                case Decide(...):             commit, execute, feed HeightStarted(h + 1)
                case RequestCatchUp(h, c):    sync up to h, feed CaughtUp, then HeightStarted if the chain grew
                case Accuse(evidence):        keep it, bring it to the ledger
                case Halt(reason, certs):     store the certificates, stop the node
                case Observe(rule, ...):      log, count; apply effect.violation to the peer book

The host's duties, numbered:

 1. *Order.* Log record durable, then sign guard durable, then signature, then network. Nothing is signed, sent or
    decided before every earlier Persist is durable; consecutive records may share one fdatasync. A failed append
    stops the node.
 2. *Feed back.* An own vote counts only when it comes back as MessageReceived. Events that a host creates while it
    carries out effects are fed after the whole tuple is done, never from inside.
 3. *Guard.* `consensus.guard.SignGuard.check(vote)` before each signature; a refusal means: do not sign, tell the
    operator. Its state lives in its own directory. A replica whose log or guard is missing, or older than the other,
    is made with observing=True; `consensus.guard.Quarantine` says when VotingAllowed may be fed.
 4. *Verify first.* Only what `consensus.checks.authenticate` returned goes into MessageReceived (or perform
    `signature_checks` in batches; they list exactly what must verify). Use `replica.validators` for the set, except
    for a DecidedNotice below the own height, which takes the set of its height. Ask `replica.worth(message)` before:
    votes that a quorum no longer needs are not worth their verification. A bad signature counts against the
    connection, never against the claimed signer.
 5. *Bodies.* BlockChecked(valid=True) only when the block was validated wholly, its parent certificate included, and
    its body is durable. A body PREPAREd here is served to peers until its height is final.
 6. *Work.* After HeightStarted, and whenever it becomes true, feed WorkPending: overdue=False as soon as there is
    something to put in a block, overdue=True when it is older than the block interval and was forwarded to all.
 7. *Time.* The core has none but TimerFired. Measure round trips to all validators and feed QuorumRtt now and then.
 8. *Lanes.* Feed LaneChanged whenever a lane to a validator opens or closes, also for those open before the start.
 9. *Archive.* Records with `is_archival` are kept for the evidence window; all others of a height may be dropped once
    HeightBegun of a later height is durable and the block before it is in the store.
10. *Restart.* Give `Replica.restore` the records of the log in order, then HeightStarted for the height after the last
    committed block. Logged votes are signed again: a second signature of the same content is harmless.
11. *Catch-up.* Answer every RequestCatchUp with CaughtUp, even when it failed. While syncing, keep feeding events.
12. *Halt.* After `Halt` nothing is fed any more; `step` raises `Halted`.

Host misuse raises `ValueError`; a remote fault never raises, it is observed with the rule that refused it.
Start reading at `consensus/README.md`, then `rules`, `events`, `effects`, `replica`, `instance`.
"""

from consensus.checks import authenticate, message_fault, signature_checks
from consensus.effects import (
    Accuse,
    AnswerDecided,
    ArmTimer,
    Broadcast,
    CheckBlock,
    Decide,
    DisarmTimer,
    Effect,
    Halt,
    HaltReason,
    Observe,
    Persist,
    RequestBlock,
    RequestCatchUp,
    Send,
    SendAll,
    TimerId,
    TimerKind,
    Violation,
    signed_by,
)
from consensus.engine import ConsensusEngine, EngineKind, Halted, Worth
from consensus.events import (
    BlockChecked,
    BlockProposed,
    CaughtUp,
    Event,
    HeightStarted,
    LaneChanged,
    MessageReceived,
    QuorumRtt,
    TimerFired,
    VotingAllowed,
    WorkPending,
)
from consensus.guard import Quarantine, SignGuard
from consensus.records import Record, decode_record, encode_record
from consensus.replica import Replica
from consensus.reputation import Reputation
from consensus.rules import Rule

__all__ = [
    "Accuse",
    "AnswerDecided",
    "ArmTimer",
    "BlockChecked",
    "BlockProposed",
    "Broadcast",
    "CaughtUp",
    "CheckBlock",
    "ConsensusEngine",
    "Decide",
    "DisarmTimer",
    "Effect",
    "EngineKind",
    "Event",
    "Halt",
    "HaltReason",
    "Halted",
    "HeightStarted",
    "LaneChanged",
    "MessageReceived",
    "Observe",
    "Persist",
    "Quarantine",
    "QuorumRtt",
    "Record",
    "Replica",
    "Reputation",
    "RequestBlock",
    "RequestCatchUp",
    "Rule",
    "Send",
    "SendAll",
    "SignGuard",
    "TimerFired",
    "TimerId",
    "TimerKind",
    "Violation",
    "VotingAllowed",
    "WorkPending",
    "Worth",
    "authenticate",
    "decode_record",
    "encode_record",
    "message_fault",
    "signature_checks",
    "signed_by",
]
