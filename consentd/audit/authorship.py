"""Check again what the daemon checks before it writes: consents and who wrote them, vocabularies, rules, keys, schemes.

The rules are those of the sequencer (``sequencer.commands.authorship``; policy.md, rule 8). An entry that the daemon
signed was written by the participant or operator that attests it. Who passed on an entry that a person signed is not
recorded, so only the content of such an entry is checked.
"""

from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.identifier import check_scheme
from consentd.core.kinds import CONSENTS, EntryKind, Owner
from consentd.errors import InvalidError
from consentd.policy.compile import compile_consent
from consentd.policy.model import StoredConsent
from consentd.policy.subject import Lineage
from consentd.sequencer.commands.authorship import (
    check_attester,
    check_named,
    check_same_kind,
    check_version,
    check_writer,
)
from consentd.sequencer.commands.registry import check_key, check_rules, check_vocabulary
from consentd.statements import values
from consentd.table.view import View
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

CHECKED = CONSENTS | {EntryKind.ENROL, EntryKind.KEY, EntryKind.VOCABULARY, EntryKind.RULES}
"""The kinds of entries that ``check_written`` checks."""


def check_written(view: View, event: codec.Event, message: Message, key: bytes) -> None:
    """Check that the daemon may have written an entry of one of the kinds ``CHECKED``.

    Args:
        view: the policy table after all entries before this one were applied.
        key: the key that signed the entry's statement.

    Raises:
        RequestError: the daemon must refuse such a write.
    """
    if isinstance(message, st.EnrolStatement):
        check_scheme(message.scheme)
    elif isinstance(message, st.KeyStatement):
        check_key(message.key)
    elif isinstance(message, st.VocabularyStatement):
        check_vocabulary(view, message)
    elif isinstance(message, st.RulesStatement):
        check_rules(view, message)
    elif isinstance(message, st.GrantStatement):
        _Author(view, message.attestation, key).check_version(event, message.consent, replaced=None)
    elif isinstance(message, st.AmendStatement):
        replaced = _lineage(view, event.tag, message.lineage_seq)
        _Author(view, message.attestation, key).check_version(event, message.consent, replaced=replaced)
    elif isinstance(message, st.PauseStatement | st.ResumeStatement | st.RevokeStatement):
        lineage = _lineage(view, event.tag, message.lineage_seq)
        if lineage is not None:  # otherwise the entry cannot be applied, which is a fault of its own
            _Author(view, message.attestation, key).check_change(event, lineage)


class _Author:
    """The person who signed an entry, or the participant or operator that attests it."""

    def __init__(self, view: View, attestation: st.Attestation, key: bytes) -> None:
        owner = view.key_ever(key)
        self._view = view
        self._attester = attestation.attested_by
        self._is_person = owner is not None and owner.owner is Owner.SUBJECT

    def check_version(self, event: codec.Event, message: pb.Consent, *, replaced: Lineage | None) -> None:
        registry, consent = self._view.registry(), values.consent_value(message)
        statutory = message.kind == pb.CONSENT_KIND_STATUTORY
        self._check_writer(statutory=statutory)
        if replaced is not None:
            check_same_kind(replaced, statutory=statutory)
        if check_version(self._view, consent, time_ms=event.time_ms, replaced=replaced) is not None:
            raise InvalidError("consent lacks items that the law demands", "INVALID_CONSENT")
        stored = StoredConsent(lineage=event.seq, seq=event.seq, version=1, consent=consent)
        compiled = compile_consent(stored, registry.codebook.vocabulary, registry.numbers)
        check_named(registry, consent, compiled)
        if not self._is_person:
            check_attester(self._view, self._attester, permits=compiled, ends=replaced)

    def check_change(self, event: codec.Event, lineage: Lineage) -> None:
        self._check_writer(statutory=lineage.is_statutory)
        if not self._is_person:
            resumed = lineage.compiled if event.kind == EntryKind.RESUME else None
            ended = lineage if event.kind == EntryKind.REVOKE else None
            check_attester(self._view, self._attester, permits=resumed, ends=ended)

    def _check_writer(self, *, statutory: bool) -> None:
        # Who passed on a consent that the person signed is not recorded.
        if statutory or not self._is_person:
            check_writer(self._view, self._attester, statutory=statutory, signed=self._is_person)


def _lineage(view: View, tag: bytes, seq: int) -> Lineage | None:
    return next((one for one in view.lineages(tag) if one.lineage == seq), None)
