"""Measure whether the time of an answer shows something about a person that the answer itself does not show.

Callers ask about persons of several kinds, one call at a time: in each round one of each kind, in an order that is
drawn for that round. So all kinds meet the same moments of the machine. There are two figures for each pair of kinds.
The AUC is the probability that a call about one takes longer than a call about the other, at least 0.5, which says
nothing. The Kolmogorov–Smirnov D compares the whole distributions.

* An institution asks Check and AuthorizeAccess about persons who objected, who gave no consent, and who are not
  enrolled, and reads the receipts of these refusals (policy.md, "One answer").
* A citizen who has logged in, and is not enrolled, lists the consents of somebody who is enrolled, of somebody who is
  not, and their own (callers.md). The answer to their own is the same, but they know whom they asked about.
"""

import json
import os
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations, count, islice
from random import Random
from typing import Any

import grpc

from benchmarks.distributions import auc, kolmogorov_smirnov
from benchmarks.over_wire import Bench
from benchmarks.report import Row, spread
from benchmarks.server import Server
from benchmarks.world import PARTICIPANTS, RELAY, SCHEME, holder, identifier, recipient, subject
from consentd.config import load as load_config
from consentd.core.ed25519 import KeyPair
from consentd.cosigning.keyfiles import write_private
from consentd.service.auth import format_credential, make_token
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import (
    access_service_pb2_grpc,
    consent_service_pb2_grpc,
    ledger_service_pb2_grpc,
    policy_service_pb2_grpc,
)
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import policy_service_pb2 as ps

INSTITUTION = 1
"""Number of the recipient that asks. A fortieth of the persons objects to it, as ``world`` says."""
CALLS = 5_000
AT_MOST = 0.55
OWN = "the caller's own"
_ISSUER, _AUDIENCE, _ACR = "https://login.bench.example", "consentd-bench", "bench"
_PROVIDER = """
[[citizens.provider]]
issuer = "{issuer}"
audience = "{audience}"
participant = "{participant}"
scheme = "{scheme}"
jwks_file = "provider.jwks"
[[citizens.provider.assurance]]
acr = "{acr}"
level = 2
"""

Asked = dict[str, list[Any]]
"""For each kind, what is asked in each round."""
Ask = Callable[[Any], None]
"""Makes one call, and checks that the answer is the one that all kinds get."""
Times = dict[str, list[float]]


def measure_negatives(bench: Bench) -> list[Row]:
    """Compare each pair of kinds, for each procedure."""
    calls = min(CALLS, bench.questions // 4)
    token, provider = make_token(), KeyPair(os.urandom(32))
    config_file = bench.world.config_file
    credentials = load_config(config_file).callers.credentials_file
    write_private(credentials, format_credential(token, recipient(INSTITUTION)), append=True)
    (config_file.parent / "provider.jwks").write_text(json.dumps({"keys": [_public_jwk(provider)]}))
    with_provider = config_file.with_name("citizens.toml")
    section = _PROVIDER.format(issuer=_ISSUER, audience=_AUDIENCE, participant=RELAY, scheme=SCHEME, acr=_ACR)
    with_provider.write_text(config_file.read_text(encoding="utf-8") + section, encoding="utf-8")
    rows: list[Row] = []
    with (
        Server(with_provider, bench.server_core) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        for name, times in _all_times(channel, token, provider, bench.world.subjects, calls):
            rows += _rows(name, times, bench.boundary + ", one call at a time")
    return rows


def _rows(name: str, times: Times, boundary: str) -> Iterator[Row]:
    for one, other in combinations(times, 2):
        first, second = times[one], times[other]
        note = f"{len(first):,} calls each; {one} {spread(first)}; {other} {spread(second)}"
        found = kolmogorov_smirnov(first, second)
        # A caller knows whether the person is the caller, so a difference there shows nothing new.
        bar = None if OWN in (one, other) else AT_MOST
        row = Row(
            case="negatives", name=f"{name}: {one} against {other}", value=auc(first, second), unit="AUC",
            at_most=bar, boundary=boundary, note=note,
        )  # fmt: skip
        yield row
        yield replace(row, value=found.d, unit="D", at_most=None, note=found.sentence)


def _all_times(
    channel: grpc.Channel, token: str, provider: KeyPair, subjects: int, calls: int
) -> Iterator[tuple[str, Times]]:
    """Yield each procedure with the times of its calls."""
    me = _bearer(token)
    policy = policy_service_pb2_grpc.PolicyServiceStub(channel)
    access = access_service_pb2_grpc.AccessServiceStub(channel)
    ledger = ledger_service_pb2_grpc.LedgerServiceStub(channel)
    consents = consent_service_pb2_grpc.ConsentServiceStub(channel)
    refused: list[pb.Receipt] = []

    def check(question: pb.Question) -> None:
        _is_denied(policy.Check(ps.CheckRequest(question=question), **me).decision)

    def authorize(question: pb.Question) -> None:
        request = ac.AuthorizeAccessRequest(request_id=os.urandom(16), question=question)
        answer = access.AuthorizeAccess(request, **me)
        _is_denied(answer.decision)
        refused.append(answer.receipt)

    def receipt(of: pb.Receipt) -> None:
        request = ls.GetReceiptRequest(index=of.index, leaf_hash=of.leaf_hash)
        assert not ledger.GetReceipt(request, **me).receipt.leaf, "a refused caller gets no leaf"

    yield "Check", _measure(check, _questions(subjects, calls, 0), 0)
    asked = _questions(subjects, calls, 1)
    yield "AuthorizeAccess", _measure(authorize, asked, 1)
    order = _rounds(asked, 1)
    read: Asked = {kind: [] for kind in asked}
    for (kind, _), one in zip(order, refused, strict=True):
        read[kind].append(one)
    yield "GetReceipt", _measure(receipt, read, 2)
    citizen = identifier(subjects + 10 * calls)
    login = _bearer(_id_token(provider, citizen))

    def list_consents(about: pb.Subject) -> None:
        call = consents.ListConsents.future(cs.ListConsentsRequest(subject=about), **login)
        assert call.code() is grpc.StatusCode.NOT_FOUND, "each of these persons is answered as nobody"

    strangers = [subject(n) for n in islice(count(subjects + 5 * calls), calls)]
    enrolled = [subject(n) for n in _draw(Random(3), list(range(subjects)), calls)]
    own = [pb.Subject(scheme=SCHEME, value=citizen)] * calls
    persons: Asked = {"another, enrolled": enrolled, "another, not enrolled": strangers, OWN: own}
    yield "ListConsents of a citizen", _measure(list_consents, persons, 3)


def _is_denied(decision: pb.Decision) -> None:
    assert decision.outcome == pb.OUTCOME_DENY, "each of these questions gets the one answer"


def _questions(subjects: int, calls: int, seed: int) -> Asked:
    """Return questions for each call of each kind.

    There are as many persons of each kind. So each is asked about as often, and caches help all kinds alike.
    """
    random = Random(seed)
    objected = [n for n in range(subjects) if n % 4 == 0 and (n + 29) % PARTICIPANTS == INSTITUTION]
    silent = [n for n in range(1, subjects, 4) if (n + 29) % PARTICIPANTS != INSTITUTION]
    strangers = list(islice(count(subjects + seed * calls), calls))
    persons = min(calls, len(objected))
    kinds = {
        "objected": objected, "no consent": random.sample(silent, persons), "not enrolled": strangers[:persons]
    }  # fmt: skip
    return {kind: [_question(n) for n in _draw(random, numbers, calls)] for kind, numbers in kinds.items()}


def _draw(random: Random, numbers: list[int], calls: int) -> list[int]:
    random.shuffle(numbers)
    return [numbers[at % len(numbers)] for at in range(calls)]


def _question(number: int) -> pb.Question:
    return pb.Question(
        subject=subject(number), actor=pb.Actor(organisation=recipient(INSTITUTION), automatic=True), holder=holder(0),
        purpose="HRESCH", action="disclose", categories=["CLIN.DX"],
    )  # fmt: skip


def _rounds(asked: Asked, seed: int) -> list[tuple[str, Any]]:
    """Return what is asked, one of each kind in each round, in an order that is drawn for each round."""
    random, order = Random(seed), []
    kinds = list(asked)
    for at in range(len(asked[kinds[0]])):
        random.shuffle(kinds)
        order += [(kind, asked[kind][at]) for kind in kinds]
    return order


def _measure(ask: Ask, asked: Asked, seed: int) -> Times:
    """Ask all in rounds; return the seconds of each call by kind."""
    times: Times = {kind: [] for kind in asked}
    for kind, one in _rounds(asked, seed):
        started = time.perf_counter()
        ask(one)
        times[kind].append(time.perf_counter() - started)
    return times


# -- the provider at which the citizen logs in ---------------------------------------------------------------------


def _bearer(token: str) -> dict[str, Any]:
    return {"metadata": (("authorization", f"Bearer {token}"),)}


def _public_jwk(key: KeyPair) -> dict[str, str]:
    return {"kty": "OKP", "crv": "Ed25519", "kid": "bench", "use": "sig", "x": _base64url(key.public_key)}


def _id_token(key: KeyPair, value: str) -> str:
    """Return an ID token of the provider about the person with this identifier, for an hour."""
    now_s = time.time_ns() // 1_000_000_000
    claims = {
        "iss": _ISSUER, "aud": _AUDIENCE, "sub": value, "iat": now_s, "exp": now_s + 3_600, "acr": _ACR,
        "auth_time": now_s,
    }  # fmt: skip
    parts = ({"alg": "EdDSA", "typ": "JWT", "kid": "bench"}, claims)
    signed = ".".join(_base64url(json.dumps(part).encode()) for part in parts)
    return f"{signed}.{_base64url(key.sign(signed.encode()))}"


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
