"""Make the publisher of a daemon's checkpoints: what the configuration says, or that of a restored copy."""

from consentd.clock import Clock
from consentd.config import Config
from consentd.core.note import Verifier
from consentd.cosigning.publisher import ImmediatePublisher, KeptPublisher, Published, Publisher, read_published
from consentd.cosigning.quorum_publisher import QuorumPublisher, SignedLog
from consentd.cosigning.witness_client import read_policy
from consentd.files import read_file_if_exists
from consentd.ledger.ledger import Ledger
from consentd.ledger.restored_copy import is_within
from consentd.metrics import Metrics


def make_publisher(
    config: Config, log_key: Verifier, ledger: Ledger, *, clock: Clock, metrics: Metrics, is_restored: bool
) -> Publisher:
    """Return a publisher for the configured witness policy; without a policy, an ``ImmediatePublisher``.

    *is_restored*: the ledger is a restored copy. Its publisher asks no witness.

    Raises:
        StorageError, CorruptionError: as ``read_published``; or the witness policy cannot be read.
    """
    if is_restored:
        return KeptPublisher(_public(config, log_key, ledger))
    if config.witness.policy_file is None:
        return ImmediatePublisher()
    signed_log = SignedLog(
        verifier=log_key,
        store=ledger.store,
        size=ledger.state.size,
        last_signed=read_file_if_exists(config.ledger.last_signed_path, name="last signed checkpoint"),
        published_path=config.ledger.published_path,
    )
    policy = read_policy(config.witness.policy_file)
    return QuorumPublisher(signed_log, policy, config.witness, clock=clock, metrics=metrics)


def _public(config: Config, log_key: Verifier, ledger: Ledger) -> Published | None:
    """Return the largest checkpoint beside a restored copy that its tree has; None: there is none."""
    size, found = ledger.state.size, list[Published]()
    for path in (config.ledger.published_path, config.ledger.last_signed_path):
        note = read_file_if_exists(path, name="checkpoint")
        if note is not None and is_within(note, size):
            published = read_published(path, log_key, store=ledger.store, size=size)
            if published is not None:
                found.append(published)
    return max(found, key=lambda one: one.checkpoint.size, default=None)
