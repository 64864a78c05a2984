"""One daemon serves one realm: a second one is refused, and the chains of the realm show all that is in force."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from cases.audited import named, verify
from cases.audits import JOBS, LOG, ORIGIN, Forge
from cases.daemons import Running, reason_of
from cases.ledgers import LedgerCase
from cases.notices import make_notice
from cases.services import publish_rules
from cases.writes import Raw
from consentd.audit.replay import replay_decisions
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.statements.values import vocabulary_message
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

RULES = codec.public_tag("rules/realm")
PERMISSIVE = st.RulesStatement(
    realm_id="realm", version=2, combining=pb.COMBINING_PERMIT_UNLESS_DENY, implicit_policy=pb.IMPLICIT_POLICY_DENY,
    vocabulary_id=DEFAULT_VOCABULARY.id,
)  # fmt: skip
VOCABULARY = vocabulary_message(DEFAULT_VOCABULARY)
VOCABULARY.version += 1
NOTICE = make_notice("own", title={"en": "Notice"})
ACT = st.AdministrationStatement(backup_started=st.BackupStarted())

HIDDEN: dict[str, tuple[EntryKind, str, Message]] = {
    "rules in the chain of another realm": (EntryKind.RULES, "rules/other", PERMISSIVE),
    "rules in the chain of the ledger": (EntryKind.RULES, "ledger", PERMISSIVE),
    "rules in the chain of a participant": (EntryKind.RULES, "participant/bank", PERMISSIVE),
    "a vocabulary in the chain of another one": (EntryKind.VOCABULARY, "vocabulary/other", VOCABULARY),
    "a vocabulary in the chain of the rules": (EntryKind.VOCABULARY, "rules/realm", VOCABULARY),
    "a notice in the chain of another one": (EntryKind.NOTICE, "notice/other", NOTICE),
    "an act of an operator in the chain of the ledger": (EntryKind.ADMINISTRATION, "ledger", ACT),
    "an act of an operator in the chain of one": (EntryKind.ADMINISTRATION, "administration/main", ACT),
}
UNKNOWN_FIELD = b"\xfa\x07\x01x"


@pytest.mark.parametrize("realm_id", ["other", "", "Realm", "realm/2"])
def test_rules_of_another_realm_are_refused(running: Running, realm_id: str) -> None:
    before = running.registry.GetRules(rs.GetRulesRequest(), metadata=running.as_("operator"))
    with pytest.raises(grpc.RpcError) as caught:
        publish_rules(running, realm_id=realm_id)
    assert reason_of(caught.value) == "INVALID_REQUEST"
    after = running.registry.GetRules(rs.GetRulesRequest(), metadata=running.as_("operator"))
    assert after.rules == before.rules


def test_the_realm_s_own_rules_are_published(running: Running) -> None:
    before = running.registry.GetRules(rs.GetRulesRequest(), metadata=running.as_("operator")).rules
    publish_rules(running, normal_level="M")
    after = running.registry.GetRules(rs.GetRulesRequest(), metadata=running.as_("operator")).rules
    assert (after.realm_id, after.version, after.normal_level) == ("realm", before.version + 1, "M")


def audit(forge: Forge, directory: Path) -> tuple[list[int | None], list[int | None]]:
    """Return the indexes of the faults that ``audit verify`` and ``audit replay`` name."""
    forge.seal()
    export = forge.write(directory / "ledger", directory / "openings")
    replayed = replay_decisions(export, origin=ORIGIN, log_verifier=LOG.verifier, jobs=JOBS)
    return named(verify(export)), [fault.index for fault in replayed.faults]


@pytest.mark.parametrize("more", [b"", UNKNOWN_FIELD], ids=["known", "unknown field"])
@pytest.mark.parametrize("name", HIDDEN)
def test_an_audit_names_what_is_in_another_chain(tmp_path: Path, name: str, more: bytes) -> None:
    kind, chain, message = HIDDEN[name]
    forge = Forge()
    forge.begin()
    person, at = forge.enrol(0), forge.size
    forge.add(kind, codec.public_tag(chain), message.SerializeToString() + more)
    forge.ask(person)
    assert audit(forge, tmp_path) == ([at], [at])


def test_an_audit_names_rules_of_a_second_realm_in_their_own_chain(tmp_path: Path) -> None:
    forge = Forge()
    forge.begin()
    person, at, other = forge.enrol(0), forge.size, st.RulesStatement()
    other.CopyFrom(PERMISSIVE)
    other.realm_id, other.version = "other", 1
    forge.add(EntryKind.RULES, codec.public_tag("rules/other"), other)
    forge.ask(person)
    assert at in audit(forge, tmp_path)[1]


def test_rules_in_their_own_chain_are_no_fault(tmp_path: Path) -> None:
    forge = Forge()
    forge.begin()
    forge.add(EntryKind.RULES, RULES, PERMISSIVE)
    forge.add(EntryKind.NOTICE, codec.public_tag("notice/own"), NOTICE)
    assert audit(forge, tmp_path) == ([], [])


@pytest.mark.parametrize("name", HIDDEN)
def test_fsck_names_what_is_in_another_chain(case: LedgerCase, name: str) -> None:
    kind, chain, message = HIDDEN[name]
    at = case.ledger.state.size
    case.write(Raw(kind=kind, tag=codec.public_tag(chain), payload=message.SerializeToString(), message=None))
    case.seal()
    assert named(case.fsck()) == [at]


@pytest.fixture
def case(tmp_path: Path) -> Any:
    """A ledger that its test damages, so it is not verified at the end."""
    made = LedgerCase(tmp_path)
    yield made
    made.close()
