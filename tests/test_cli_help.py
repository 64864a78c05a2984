"""Each verb has the options that it takes, and no others of the daemon."""

import argparse
from collections.abc import Iterator

import pytest

from consentd import cli
from consentd.service.roles import TABLE, Access, Kind

RPCS = {
    "access": "GetAccess", "accesses": "ListAccesses", "amend": "AmendConsent", "authority end": "EndAuthority",
    "authority list": "ListAuthorities", "authority put": "PutAuthority", "authority show": "GetAuthority",
    "authorize": "AuthorizeAccess", "backup": "StartBackup", "check": "Check", "checkpoint": "GetCheckpoint",
    "consents": "ListConsents", "credential add": "AddCredential", "credential list": "ListCredentials",
    "credential revoke": "RevokeCredential", "due": "ListDueTransfers", "enrol": "EnrolSubject",
    "expiring": "ListExpiring", "grant": "GrantConsent", "history": "GetHistory", "import fhir": "",
    "key add": "AddKey", "key list": "GetHistory", "key replace": "AddKey", "key retire": "RetireKey",
    "notice campaign": "GetCampaign", "notice publish": "PublishNotice", "notice reconsents": "ListReconsents",
    "notice show": "GetNotice", "operation cancel": "CancelOperation", "operation follow": "GetOperation",
    "operation list": "ListOperations", "operation show": "GetOperation", "participants add": "RegisterParticipant",
    "participants delegate": "PutDelegation", "participants delegations": "ListDelegations",
    "participants end-delegation": "EndDelegation", "participants end-mandate": "EndMandate",
    "participants list": "ListParticipants", "participants mandate": "PutMandate",
    "participants show": "GetParticipant", "participants update": "RegisterParticipant", "pause": "PauseConsent",
    "prune": "StartPruning", "receipt": "GetReceipt", "record": "RecordAccess", "renew": "RenewConsent",
    "resume": "ResumeConsent", "revoke": "RevokeConsent", "rotate log-key": "StartKeyRotation",
    "rotate statement-key": "StartKeyRotation", "rotate vault-key": "StartVaultKeyRotation", "served": "RecordServed",
    "subject duties": "ListDuties", "subject end-hold": "EndHold", "subject erase": "EraseSubject",
    "subject hold": "PutHold", "subject holds": "GetHolds", "vocabulary": "GetVocabulary",
}  # fmt: skip
"""What each verb calls that has a daemon. An import writes for many persons, so no person makes one."""
VERIFYING = {
    "authority end", "authority put", "authorize", "amend", "checkpoint", "enrol", "grant", "history", "key add",
    "key list", "key replace", "key retire", "notice publish", "pause", "receipt", "record", "renew", "resume",
    "revoke", "served", "subject erase",
}  # fmt: skip
"""The verbs that verify what the daemon answers, if a log key is pinned."""
SIGNING = {"delegate", "end-delegation", "mandate", "end-mandate", "update"}
"""The verbs of ``participants`` with which a participant signs."""
OF_PERSONS = {"--id-token-file", "--subject-key"}
OF_LEDGER = {"--log-key", "--origin"}


def verbs(parser: argparse.ArgumentParser, path: str = "") -> Iterator[tuple[str, frozenset[str]]]:
    """Yield each verb that calls a daemon, with its options."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below or not all(action.required for action in below):
        options = frozenset(option for action in parser._actions for option in action.option_strings)
        if "--timeout" in options:
            yield path, options
    for action in below:
        for name, verb in action.choices.items():
            yield from verbs(verb, f"{path} {name}".strip())


VERBS = dict(verbs(cli.make_parser()))


def test_every_verb_with_a_daemon_is_compared() -> None:
    assert VERBS.keys() == RPCS.keys()


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_the_options_of_persons_if_a_person_may_call_it(verb: str) -> None:
    cells = TABLE[RPCS[verb]].values() if RPCS[verb] else ()
    is_theirs = any(one[kind] is not Access.DENIED for one in cells for kind in (Kind.CITIZEN, Kind.CITIZEN_KEY))
    assert VERBS[verb] & OF_PERSONS == (OF_PERSONS if is_theirs else set())


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_pinned_values_if_it_verifies_or_signs_with_them(verb: str) -> None:
    signs = verb.split()[-1] in SIGNING or "--subject-key" in VERBS[verb]
    assert ("--policy" in VERBS[verb]) is (verb in VERIFYING)
    assert VERBS[verb] & OF_LEDGER == (OF_LEDGER if signs or verb in VERIFYING else set())
