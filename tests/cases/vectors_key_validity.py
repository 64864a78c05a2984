"""Keys that come and go within one millisecond, in several chains; and what is said to who holds a history already."""

from collections.abc import Callable, Iterator
from typing import Any

from cases.ledgers import DAEMON, ORIGIN
from cases.vectors_case import BANK, STRANGER, Vector, b64, encode, evidence_vector, history_vector, to_document
from cases.vectors_forged import ME, Forge, base, key_payload, ledger_payload
from cases.vectors_pruned import first_payload, pruning
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.core.pruned import DAY_MS
from consentd.v1 import statement_pb2 as st


def key_validities() -> Iterator[Vector]:
    """Yield all of them."""
    yield from in_any_order()
    yield from news()
    yield nobodys()


def in_any_order() -> Iterator[Vector]:
    """Yield files whose chains are in any order, and come to the same in each."""
    retired = key_payload(STRANGER.public_key, retired=True)
    for name, want, steps in (
        # The daemon's second key, which signs the stranger's, is of that millisecond too; whoever takes it last may not
        # take the stranger's key after its retirement.
        ("retired before", "signature", (("shop", BANK, key_payload(STRANGER.public_key)), ("shop", DAEMON, retired))),
        ("in force", "ok", (("shop", BANK, key_payload(STRANGER.public_key)),)),
        ("in force again", "ok", (("shop", DAEMON, retired), ("shop", BANK, key_payload(STRANGER.public_key)))),
        ("by what comes later in its chain", "signature",
         (("shop", STRANGER, retired), ("shop", BANK, key_payload(STRANGER.public_key)))),
        ("by what comes later, and says nothing", "signature",
         (("shop", STRANGER, b""), ("shop", BANK, key_payload(STRANGER.public_key)))),
    ):  # fmt: skip
        forge = Forge().add("ledger", EntryKind.LEDGER, DAEMON, ledger_payload()).later()
        for whose, by, payload in steps:
            forge.add(f"participant/{whose}", EntryKind.KEY, by, payload)
        forge.add("ledger", EntryKind.LEDGER, DAEMON, ledger_payload(BANK.public_key)).later()
        forge.add("participant/shop", EntryKind.DELEGATION, STRANGER)
        yield from ordered(f"a key {name}", want, forge)
    both = base().add("participant/shop", EntryKind.KEY, DAEMON, key_payload(BANK.public_key))
    both.add("ledger", EntryKind.LEDGER, DAEMON, st.LedgerStatement(
        origin=ORIGIN, statement_key=BANK.public_key).SerializeToString()).later()  # fmt: skip
    yield from ordered("one key of three owners", "ok", both.add(ME, EntryKind.SERVED, BANK))


def ordered(name: str, want: str, forge: Forge) -> Iterator[Vector]:
    """Yield the history of each chain with the others in two orders, as a history and as evidence."""
    for asked in forge.chains:
        document = to_document(forge.proof(asked))
        first, *others = document["histories"]
        others = [chain for chain in others if chain["public_name"]]
        under = {"public_name": first["public_name"]} if first["public_name"] else {"tag": b64(asked)}
        for order, chains in (("", others), (", backwards", others[::-1])):
            made = {**document, "histories": [first, *chains]}
            whole = f"key changes: {name}: {first['public_name'] or 'the person'}{order}"
            history = history_vector(whole, want, made, **under)
            yield history
            yield evidence_vector(whole, want, history.content)


def news() -> Iterator[Vector]:
    """Yield what follows an entry that is held, with all that signs and commits made to fit."""

    def back(forge: Forge) -> None:
        forge.time_ms -= 1001
        forge.add(ME, EntryKind.ACCESS, DAEMON).later(1001)

    def same(forge: Forge) -> None:
        forge.time_ms -= 1000
        forge.add(ME, EntryKind.ACCESS, DAEMON)

    yield grown("of the same time", "ok", ME, same)
    yield grown("earlier than what is held", "proof", ME, back)

    def states(payload: bytes) -> Callable[[Forge], None]:
        return lambda forge: forge.later(40 * DAY_MS).add("ledger", EntryKind.LEDGER, DAEMON, payload) and None

    start_ms = Forge().time_ms
    for name, want, payload in (
        ("a pruning", "ok", pruning(start_ms + DAY_MS)),
        ("a pruning that the policy does not let be", "proof", pruning(start_ms + 20 * DAY_MS)),
        ("a pruning by a policy of its own", "proof", pruning(start_ms + 20 * DAY_MS, retention_days=1)),
        ("nothing", "ok", st.LedgerStatement(origin=ORIGIN).SerializeToString()),
        ("another origin", "proof", ledger_payload(origin="ledger.example/other")),
        ("another log key", "ok", ledger_payload(log_key="x")),
    ):
        yield grown(f"that state {name}", want, "ledger", states(payload))


def grown(name: str, want: str, asked: bytes | str, change: Callable[[Forge], Any]) -> Vector:
    """Return the news of a chain to who holds it as it was before *change*."""
    tag = codec.public_tag(asked) if isinstance(asked, str) else asked
    forge = base(first_payload())
    before = to_document(forge.proof(tag))
    forge.grown = forge.leaves
    change(forge)
    forge.add("participant/bank", EntryKind.PARTICIPANT, DAEMON)
    document = to_document(forge.proof(tag))
    for made in (before, document):
        made["histories"] = [chain for at, chain in enumerate(made["histories"]) if not at or chain["public_name"]]
    chain = document["histories"][0]
    held = before["histories"][0]["count"]
    chain.update(first_seq=held + 1, entries=chain["entries"][held:])
    under = {"public_name": asked} if isinstance(asked, str) else {"tag": b64(tag)}
    return history_vector(f"news {name}", want, document, before=[b64(encode(before))], **under)


def nobodys() -> Vector:
    """Return evidence of the chain of an empty tag."""
    document = to_document(base().proof(codec.public_tag("ledger")))
    nobody = {**document, "scope": {"tag": ""}, "histories": document["histories"][:1]}
    return evidence_vector("key changes: of an empty tag", "malformed", nobody)
