"""Policies that a consent's source names: kept in the entry, and without meaning in a decision."""

from dataclasses import replace

import pytest

from consentd.errors import InvalidError
from consentd.policy.check import MAX_POLICY_URI_BYTES, MAX_POLICY_URIS, check_consent
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.model import Consent, Effect, Kind, Provision
from consentd.statements.values import consent_message, consent_value
from consentd.v1 import consent_pb2 as pb

OBJECTION = Consent(kind=Kind.OBJECTION, root=Provision(effect=Effect.DENY))


def test_they_are_part_of_the_message() -> None:
    consent = replace(OBJECTION, policy_uris=("http://example.org/policy", "urn:x|code"))
    assert consent_value(pb.Consent.FromString(consent_message(consent).SerializeToString())) == consent


def test_limits_are_reachable() -> None:
    most = tuple("u" * (MAX_POLICY_URI_BYTES - 3) + f"{number:03}" for number in range(MAX_POLICY_URIS))
    assert check_consent(replace(OBJECTION, policy_uris=most), DEFAULT_VOCABULARY) is None


@pytest.mark.parametrize(
    "uris",
    [("u",) * (MAX_POLICY_URIS + 1), ("u" * (MAX_POLICY_URI_BYTES + 1),), ("",), ("a b",), ("a\n",), ("\u202e",)],
)
def test_what_is_no_list_of_uris_is_refused(uris: tuple[str, ...]) -> None:
    with pytest.raises(InvalidError) as raised:
        check_consent(replace(OBJECTION, policy_uris=uris), DEFAULT_VOCABULARY)
    assert raised.value.reason == "INVALID_CONSENT"
