"""Who reports the outcome of a transfer: a party to the access, or somebody else."""

from collections.abc import Iterator
from typing import Any

from cases.ledgers import DAEMON
from cases.vectors_case import BANK, STRANGER, Vector, b64, evidence_vector, history_vector, to_document
from cases.vectors_forged import ME, Forge, base, key_payload
from consentd.core import ed25519
from consentd.core.kinds import EntryKind
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

FOREIGN_FIELD = b"\xf8\x3f\x01"
ACTOR = {"organisation": "bank", "on_behalf_of": "fund", "application": "wallet", "relays": ["khis", "hub"]}
SHOP = ed25519.KeyPair(b"\x31" * 32)


def reporters() -> Iterator[Vector]:
    """Yield all of them."""
    yield from attested()
    yield from signed()
    yield from not_understood()


def access(asker: str = "hospital", holder: str = "hospital", more: bytes = b"", **actor: Any) -> st.AccessStatement:
    """Return the statement of an ACCESS. *more*: bytes after the question."""
    question = pb.Question(
        subject=pb.Subject(scheme="mhid", value="X"), actor=pb.Actor(**{**ACTOR, **actor}), holder=holder,
        purpose="CAREMGT", categories=["CLIN.DX"], labels=pb.CodeSet(), data_period=pb.Period(start_time_ms=-5),
        supported_obligations=[pb.OBLIGATION_ENFORCE_RESIDUAL], level="N",
    )  # fmt: skip
    rule = pb.ResidualRule(effect=pb.EFFECT_PERMIT, categories=["CLIN.DX"], rules=[pb.ResidualRule(level="N")])
    decision = pb.Decision(
        outcome=pb.OUTCOME_PERMIT, permitted=["CLIN.DX"], obligations=[pb.OBLIGATION_ENFORCE_RESIDUAL],
        residual=[rule, rule], reasons=[pb.DecisionReason(consent_id="aa", version=1)],
        revision=pb.Revision(tree_size=7), decision_id="0" * 32, tag=ME, labels=["*"], valid_until_time_ms=9,
    )  # fmt: skip
    asked = st.AskedQuestion(question=question.SerializeToString() + more, asker=asker, network_origin="ipv4:10.0.0.1")
    return st.AccessStatement(asked=asked, decision=decision)


def outcome(by: str = "", **fields: Any) -> bytes:
    attestation = st.Attestation(attested_by=by) if by else None
    stated = {"status": st.TRANSFER_STATUS_SENT, "categories": ["CLIN.DX"], "resource_count": 3, "note": "ok", **fields}
    return st.OutcomeStatement(attestation=attestation, **stated).SerializeToString(deterministic=True)


def reported(
    payload: bytes, author: ed25519.KeyPair = DAEMON, stated: st.AccessStatement | bytes | None = None,
    forge: Forge | None = None, ref: int | None = None,
) -> Forge:  # fmt: skip
    """Return a ledger with an ACCESS, and an outcome of it. *ref*: another entry than this access."""
    stated = access() if stated is None else stated
    encoded = stated if isinstance(stated, bytes) else stated.SerializeToString(deterministic=True)
    forge = (base() if forge is None else forge).add(ME, EntryKind.ACCESS, DAEMON, encoded)
    ref = len(forge.chains[ME]) if ref is None else ref
    return forge.later().add(ME, EntryKind.OUTCOME, author, payload, ref=ref)


def both(name: str, want: str, forge: Forge) -> Iterator[Vector]:
    """Yield a person's history, and the same as evidence."""
    history = history_vector(f"reporters: {name}", want, to_document(forge.proof(ME)), tag=b64(ME))
    yield history
    yield evidence_vector(f"reporters: {name}", want, history.content)


def attested() -> Iterator[Vector]:
    """Yield outcomes that the daemon signed."""
    for by in ("hospital", "bank", "fund", "wallet", "khis", "hub"):
        yield from both(f"attested by {by}", "ok", reported(outcome(by)))
    for by in ("shop", "operator", "operator/main", "hospital/", "Bank", "khi", "CLIN.DX", "X", ""):
        yield from both(f"attested by `{by}`, which is no party", "signature", reported(outcome(by)))
    used = access()
    used.uses.add(lineage_seq=3, categories=["CLIN.DX"], until_time_ms=9)
    used.uses.add(lineage_seq=4)
    right = reported(outcome("bank"), stated=used)
    yield from both("attested by a party to an access that uses a recurrence", "ok", right)
    wrong = reported(outcome("shop"), stated=used)
    yield from both("attested by no party to an access that uses a recurrence", "signature", wrong)
    relay = access(asker="khis", relays=[])
    yield from both("attested by the asker alone", "ok", reported(outcome("khis"), stated=relay))
    yield from both("of no access", "ok", reported(outcome("shop"), ref=0))
    yield from both("of an entry that is no access", "ok", reported(outcome("shop"), ref=1))
    alone = access(asker="", holder="", organisation="", on_behalf_of="", application="", relays=[""])
    yield from both("of an access without a party, attested by nobody", "signature", reported(outcome(), stated=alone))
    gone = base().add(ME, EntryKind.ACCESS, DAEMON, access().SerializeToString(), tombstone=True).later()
    gone.add(ME, EntryKind.OUTCOME, DAEMON, outcome("shop"), ref=len(gone.chains[ME])).add(ME, EntryKind.ERASURE, BANK)
    yield from both("of an access that is gone", "ok", gone)
    for before, want in ((2, "signature"), (1, "ok"), (0, "signature")):
        three = base().add(ME, EntryKind.ACCESS, DAEMON, access().SerializeToString())
        three.add(ME, EntryKind.ACCESS, DAEMON, access(holder="shop").SerializeToString())
        three = reported(outcome("shop"), forge=three, ref=len(three.chains[ME]) + 1 - before)
        yield from both(f"of the access before {before} others; the second of three is the shop's", want, three)


def signed() -> Iterator[Vector]:
    """Yield outcomes that a participant signed."""
    yield from both("signed by a party", "ok", reported(outcome(), BANK))
    yield from both("signed by a party, attested by another", "ok", reported(outcome("shop"), BANK))
    without = access(organisation="lab", on_behalf_of="", relays=["banker"])
    yield from both("signed by no party", "signature", reported(outcome(), BANK, without))
    yield from both("signed by no party, attested by one", "signature", reported(outcome("hospital"), BANK, without))
    yield from both("signed by no party, as an operator", "signature", reported(outcome("operator/x"), BANK, without))
    shared = base().add("participant/shop", EntryKind.KEY, DAEMON, key_payload(BANK.public_key)).later()
    yield from both("signed by a key of two, one a party", "ok", reported(outcome(), BANK, forge=shared))
    nameless = base().add("participant/", EntryKind.KEY, DAEMON, key_payload(STRANGER.public_key)).later()
    yield from both(
        "signed by a participant without a name", "signature", reported(outcome("bank"), STRANGER, forge=nameless)
    )
    late = base().add("participant/shop", EntryKind.KEY, DAEMON, key_payload(SHOP.public_key)).later()
    yield from both("signed by another participant", "signature", reported(outcome(), SHOP, forge=late))


def not_understood() -> Iterator[Vector]:
    """Yield entries of a later version. Nothing follows from them."""
    stranger = outcome("shop")
    encoded = access().SerializeToString(deterministic=True)
    for name, payload, stated in (
        ("an outcome of a later version", stranger + FOREIGN_FIELD, encoded),
        ("an outcome that does not decode", b"\xff", encoded),
        ("an access of a later version", stranger, encoded + FOREIGN_FIELD),
        ("an access that does not decode", stranger, b"\xff"),
        ("a question of a later version", stranger, access(more=FOREIGN_FIELD).SerializeToString()),
        ("a question that does not decode", stranger, access(more=b"\xff").SerializeToString()),
        ("a residual rule of a later version", stranger, _in_a_rule(FOREIGN_FIELD)),
    ):
        yield from both(name, "ok", reported(payload, stated=stated))
    yield from both("an access of nothing", "signature", reported(stranger, stated=b""))
    twice = encoded + st.AccessStatement(asked=st.AskedQuestion(asker="shop")).SerializeToString()
    yield from both("an access that names two askers, the last counts", "ok", reported(stranger, stated=twice))
    packed = pb.Question(actor=pb.Actor(relays=["shop"])).SerializeToString()
    merged = access(more=packed).SerializeToString()
    yield from both("a question with two actors, which are one", "ok", reported(stranger, stated=merged))


def _in_a_rule(more: bytes) -> bytes:
    """Return an ACCESS whose decision has a nested residual rule with bytes after it."""
    stated = access()
    rule = pb.ResidualRule.FromString(pb.ResidualRule(level="N").SerializeToString() + more)
    stated.decision.residual[0].rules.add().CopyFrom(rule)
    return stated.SerializeToString()
