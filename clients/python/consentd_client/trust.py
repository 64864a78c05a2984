"""The keys that a client pins, and the verification that a checkpoint is signed with these keys."""

from collections.abc import Iterable
from dataclasses import dataclass

from consentd.core.checkpoint import open_checkpoint
from consentd.core.note import NoteVerifier, parse_vkey
from consentd.core.quorum import MAX_AGE_S, ParseKey, WitnessPolicy, parse_policy, verify_cosigned
from consentd.errors import MalformedError


@dataclass(frozen=True, slots=True)
class Trust:
    """The values that a client pinned: the ledger's name, and the public keys that must sign the ledger's checkpoints.

    Obtain these values from another source than the daemon. If they are doubted, pin correct values, and distrust
    everything that was verified with the old values.

    Attributes:
        origin: the ledger's name.
        log_key: the key that signs the ledger's checkpoints.
        policy: the witnesses that must cosign, to ensure that all see the same ledger; None: no witness is needed.
        also: further keys of the same log, for example ML-DSA-44 beside Ed25519. Each of them must have signed too.
    """

    origin: str
    log_key: NoteVerifier
    policy: WitnessPolicy | None = None
    also: tuple[NoteVerifier, ...] = ()

    def verify_witnessed(self, checkpoint: bytes, *, now_ms: int | None, seal_time_ms: int | None = None) -> None:
        """Verify that the log's further keys and the pinned witnesses signed a checkpoint, a signed note.

        At *now_ms* cosignatures may be at most five minutes old. If *now_ms* is None, as for a stored receipt, any age
        is accepted. *seal_time_ms*: the time of the tree's last seal; None: the caller does not know it.

        Raises:
            SignatureError: a key did not sign, or too few witnesses cosigned, or their cosignatures are too old.
        """
        for key in self.also:
            # INVARIANT: the note has a valid signature of every pinned key, so a forger must break all their
            # signature algorithms and not only one.
            open_checkpoint(checkpoint, self.origin, key)
        if self.policy is not None:
            verify_cosigned(
                checkpoint, self.policy, now_s=(now_ms or 0) // 1000, max_age_s=None if now_ms is None else MAX_AGE_S,
                seal_time_ms=seal_time_ms, logs=[self.log_key],
            )  # fmt: skip


def pin(
    log_key: str | NoteVerifier,
    origin: str = "",
    *,
    also: Iterable[str | NoteVerifier] = (),
    policy: bytes | None = None,
    parse_mldsa: ParseKey | None = None,
) -> Trust:
    """Return a ``Trust`` with the given values. A key is given as C2SP vkey text or as a parsed key.

    Args:
        origin: the ledger's name; empty: the name inside the log key.
        policy: a C2SP tlog-policy file; None: no witness is required.
        parse_mldsa: a parser of ML-DSA-44 vkeys; ``consentd.cosigning.mldsa``, one of the server's parts, has one.
            None: no such key can be pinned, and a policy ignores witnesses with such keys.

    Raises:
        MalformedError: a key or the policy cannot be parsed.
    """
    verifier = _parse_key(log_key, parse_mldsa)
    return Trust(
        origin or verifier.name,
        verifier,
        None if policy is None else parse_policy(policy, parse_mldsa=parse_mldsa),
        tuple(_parse_key(key, parse_mldsa) for key in also),
    )


def _parse_key(given: str | NoteVerifier, parse_mldsa: ParseKey | None) -> NoteVerifier:
    if not isinstance(given, str):
        return given
    try:
        return parse_vkey(given.strip())
    except MalformedError:
        if parse_mldsa is None:
            raise
    return parse_mldsa(given.strip())
