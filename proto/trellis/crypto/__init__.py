"""Cryptography: signature schemes, the hybrid KEM, key derivation, AEADs, the algorithm policy, keys at rest.

`algorithms` and `policy` are pure and light; the rest loads the libraries that do the work. Import what you need:

- `trellis.crypto.algorithms`: algorithm ids, sizes, and `SignatureCheck`, a signature that somebody should verify;
- `trellis.crypto.schemes`: sign and verify;
- `trellis.crypto.verifier`: verify many, in worker processes (`worker_process` and `verify_worker` are its two ends);
- `trellis.crypto.kem`, `kdf`, `aead`: what the transport is made of;
- `trellis.crypto.policy`: which algorithm may serve which role at which height;
- `trellis.crypto.keystore`, `phrase`, `cold`: keys at rest, recovery phrases, cold keys that certify hot ones.
"""
