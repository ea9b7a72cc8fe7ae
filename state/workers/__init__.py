"""Worker processes for checks that must not run in the node's own: the only folder of `state` that starts any.

`proof_pool.ProofPool` runs the deterministic verifiers of `state.proofs` in parallel; its results are those of a call
in process. `z3_pool.Z3Pool` asks the pinned solver about gated scripts, off the voting path; its answers are for
attestation. Nothing is imported here, because every worker imports this package.

Both offer blocking calls that any thread may make; under trio call them through `trio.to_thread.run_sync`. Workers are
fresh interpreters at the end of pipes, never forks: the parent holds threads and event loops that a fork would copy in
the middle of whatever they do.
"""
