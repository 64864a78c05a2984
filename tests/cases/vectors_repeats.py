"""Chains that have a signed statement twice, at once or after what the reader holds; and chains that look so."""

from collections.abc import Iterator

from cases.ledgers import DAEMON
from cases.vectors_case import BANK, CITIZEN, STRANGER, Document, Vector, b64, encode, history_vector, to_document
from cases.vectors_forged import ME, Forge, base, key_payload, ledger_payload
from consentd.core import ed25519
from consentd.core.key_validity import MAX_AUTHOR_SKEW_MS
from consentd.core.kinds import EntryKind

SAME = {"request_id": b"r" * 16}


def repeats() -> Iterator[Vector]:
    """Yield all of them."""
    yield from recorded_twice()
    yield from after_what_is_held()


def recorded_twice() -> Iterator[Vector]:
    """Yield chains with one request_id twice, by one key and by two, at all distances in time."""
    skew, same = MAX_AUTHOR_SKEW_MS, SAME

    def vector(name: str, want: str, forge: Forge) -> Vector:
        return history_vector(f"recorded once: {name}", want, to_document(forge.proof(ME)), tag=b64(ME))

    def twice(
        first: ed25519.KeyPair, second: ed25519.KeyPair, ms: int, *, forge: Forge | None = None,
        chain: bytes | str = ME, kinds: tuple[int, int] = (EntryKind.GRANT, EntryKind.GRANT), between: int = 0,
    ) -> Forge:
        """Return two entries, signed at the same time. *ms*: from the first to the second."""
        forge = base() if forge is None else forge
        forge.add(chain, kinds[0], first, skew_ms=ms // 2, **same)
        for _ in range(between):
            forge.add(chain, EntryKind.REVOKE, CITIZEN)
        return forge.later(ms).add(chain, kinds[1], second, skew_ms=ms // 2 - ms, **same)

    for ms in (0, 1, 1000, skew, 2 * skew - 1, 2 * skew):
        yield vector(f"a statement twice, after {ms} ms", "proof", twice(CITIZEN, CITIZEN, ms))
        yield vector(f"a statement twice by the daemon, after {ms} ms", "ok", twice(DAEMON, DAEMON, ms))
    yield vector("a statement twice, a REVOKE between them", "proof", twice(CITIZEN, CITIZEN, 1000, between=1))
    yield vector("a statement twice, thirty between them", "proof", twice(CITIZEN, CITIZEN, 1000, between=30))
    reused = twice(CITIZEN, CITIZEN, 2 * skew).later(1)
    yield vector("a statement three times", "proof", reused.add(ME, EntryKind.GRANT, CITIZEN, **same))
    reused = base().add(ME, EntryKind.GRANT, CITIZEN, **same).later(2 * skew + 1)
    reused.add(ME, EntryKind.GRANT, CITIZEN, **same)
    yield vector("a request_id again, after more than twenty minutes", "ok", reused)
    other = (EntryKind.GRANT, EntryKind.REVOKE)
    yield vector("a request_id again, for another kind", "proof", twice(CITIZEN, CITIZEN, 1000, kinds=other))
    yield vector("a request_id again, by the daemon", "ok", twice(CITIZEN, DAEMON, 1000))
    yield vector("a request_id again, by the person", "ok", twice(DAEMON, CITIZEN, 1000))
    outcomes = (EntryKind.OUTCOME, EntryKind.OUTCOME)
    yield vector("an OUTCOME twice", "proof", twice(BANK, BANK, 1000, kinds=outcomes))
    shop = ed25519.KeyPair(b"\x31" * 32)
    two = base().add("participant/shop", EntryKind.KEY, DAEMON, key_payload(shop.public_key)).later()
    yield vector("two OUTCOMEs with one request_id", "ok", twice(BANK, shop, 1000, forge=two, kinds=outcomes))
    delegations = (EntryKind.DELEGATION, EntryKind.DELEGATION)
    given = twice(BANK, BANK, 1000, chain="participant/bank", kinds=delegations)
    yield vector("a DELEGATION twice", "proof", given)
    elsewhere = base().add(ME, EntryKind.SERVED, BANK, **same)
    elsewhere.add("participant/bank", EntryKind.DELEGATION, BANK, **same)
    yield vector("a request_id in two chains", "ok", elsewhere)
    unknown = twice(CITIZEN, CITIZEN, 1000, kinds=(40, 40))
    yield vector("a statement of an unknown kind twice", "proof", unknown)
    gone = base().add(ME, EntryKind.GRANT, CITIZEN, **same).later()
    gone.add(ME, EntryKind.GRANT, CITIZEN, tombstone=True, **same)
    yield vector("a statement twice, erased once", "ok", gone.add(ME, EntryKind.ERASURE, BANK))
    for name, key, want in (("the daemon's key too", CITIZEN, "proof"), ("the daemon's key alone", STRANGER, "ok")):
        stated = base().add("ledger", EntryKind.LEDGER, DAEMON, ledger_payload(key.public_key)).later()
        yield vector(f"a statement twice, by {name}", want, twice(key, key, 1000, forge=stated))


def after_what_is_held() -> Iterator[Vector]:
    """Yield what follows a statement that the reader holds: as news, and as the next part of a history in parts."""
    window = 2 * MAX_AUTHOR_SKEW_MS
    for name, want, ms, author, request_id in (
        ("again at once", "proof", 0, CITIZEN, SAME["request_id"]),
        ("again after twenty minutes", "proof", window, CITIZEN, SAME["request_id"]),
        ("after more than twenty minutes", "ok", window + 1, CITIZEN, SAME["request_id"]),
        ("by the daemon", "ok", 1000, DAEMON, SAME["request_id"]),
        ("with another request_id", "ok", 1000, CITIZEN, b"s" * 16),
    ):
        for between in (0, 2):
            forge = base().add(ME, EntryKind.GRANT, CITIZEN, **SAME)
            first = person_document(forge)
            forge.grown = forge.leaves
            for _ in range(between):
                forge.add(ME, EntryKind.ACCESS, DAEMON)
            middle = person_document(forge) if between else None
            if middle is not None:
                forge.grown = forge.leaves
            forge.later(ms).add(ME, EntryKind.GRANT, author, request_id=request_id)
            last = person_document(forge)
            documents = [document_after(one, before) for one, before in zip(
                [one for one in (middle, last) if one is not None], [first, *([middle] if middle else [])], strict=True
            )]  # fmt: skip
            steps = [b64(encode(one)) for one in (first, *documents[:-1])]
            named = f"recorded once: held, {name}, {between} between"
            yield history_vector(named, want, documents[-1], before=steps, tag=b64(ME))
            most = [first["histories"][0]["count"], *([between] if between else []), 0]
            yield history_vector(f"{named}, in parts", want, documents[-1], before=steps, most=most, tag=b64(ME))


def person_document(forge: Forge) -> Document:
    """Return the person's history, with the chains of authors alone beside it."""
    document = to_document(forge.proof(ME))
    document["histories"] = [one for at, one in enumerate(document["histories"]) if not at or one["public_name"]]
    return document


def document_after(document: Document, before: Document) -> Document:
    """Return the entries of *document* that follow those of *before*."""
    chain, held = document["histories"][0], before["histories"][0]["count"]
    later = {**chain, "first_seq": held + 1, "entries": chain["entries"][held:]}
    return {**document, "histories": [later, *document["histories"][1:]]}
