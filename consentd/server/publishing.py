"""Build what decides when a checkpoint becomes public, as the configuration says."""

from pathlib import Path

from consentd.clock import Clock
from consentd.config import Config
from consentd.core.quorum import WitnessPolicy, parse_policy
from consentd.cosigning.mldsa import parse_mldsa_vkey
from consentd.cosigning.publisher import ImmediatePublisher, Publisher
from consentd.cosigning.quorum_publisher import QuorumPublisher, SignedLog
from consentd.errors import InvalidError, MalformedError, StorageError
from consentd.ledger.last_signed import read_last_signed
from consentd.ledger.ledger import Ledger
from consentd.metrics import Metrics
from consentd.server.keys import Keys


def make_publisher(config: Config, keys: Keys, ledger: Ledger, *, metrics: Metrics, clock: Clock) -> Publisher:
    """Return the publisher of the configured witness policy; without a policy, one that publishes at once.

    Raises:
        StorageError: the policy file cannot be read.
        InvalidError: it is no policy, or of another log, or has no quorum among witnesses that can be asked.
    """
    section = config.witness
    if section.policy_file is None:
        return ImmediatePublisher()
    signed_log = SignedLog(
        verifier=keys.log.verifier,
        store=ledger.store,
        size=ledger.state.size,
        last_signed=read_last_signed(config.ledger.last_signed_path),
        published_path=config.ledger.published_path,
    )
    return QuorumPublisher(signed_log, read_policy(section.policy_file), section, clock=clock, metrics=metrics)


def read_policy(path: Path) -> WitnessPolicy:
    """Read a policy file.

    Raises:
        StorageError: it cannot be read.
        InvalidError: it is no policy; the line is named.
    """
    try:
        return parse_policy(path.read_bytes(), parse_mldsa=parse_mldsa_vkey)
    except OSError as error:
        raise StorageError(f"witness policy cannot be read: `{path}`: {error.strerror}") from error
    except MalformedError as error:
        raise InvalidError(f"witness policy is malformed: `{path}`: {error}") from error
