"""Make the first entries of a new ledger from the configuration, the keys, and the checkpoint of its predecessor."""

from consentd.config import LedgerConfig
from consentd.core.note import format_vkey
from consentd.cosigning.mldsa import format_mldsa_vkey
from consentd.ledger.predecessor import read_predecessor
from consentd.sequencer.commands.ledger import Genesis, default_genesis
from consentd.sequencer.commands.write import Author
from consentd.server.keys import Keys


def first_entries(config: LedgerConfig, author: Author, keys: Keys) -> Genesis:
    """Return the write of the first entries. Raises as ``read_predecessor``."""
    vkeys = [format_vkey(keys.log.verifier)]
    if keys.log_mldsa is not None:
        vkeys.append(format_mldsa_vkey(keys.log_mldsa.verifier))
    return default_genesis(
        author, verifier_keys=vkeys, map_bits=config.map_bits, retention_days=config.retention_days,
        predecessor=read_predecessor(config.data_dir, config.origin),
    )  # fmt: skip
