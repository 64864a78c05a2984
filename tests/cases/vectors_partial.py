"""Who acted for a person, as far as part of a chain shows it: what is missing, or not understood, is no evidence."""

from collections.abc import Collection, Iterator
from dataclasses import replace

from cases.ledgers import DAEMON
from cases.vectors_case import Vector, b64, evidence_vector, history_vector, to_document
from cases.vectors_forged import ME, Forge
from cases.vectors_representatives import FATHER, FOREIGN_FIELD, MOTHER, act, acted, authority, given, mothers_key
from cases.vectors_representatives import pinned as with_key
from consentd.core import merkle, tiles
from consentd.core.evidence import Evidence, Scope, SingleEntry, format_evidence
from consentd.core.kinds import EntryKind


def whole_chain() -> Forge:
    """Return a ledger that is right: a representative with three keys one after another, and one that attests."""
    forge, seq = with_key()
    forge.later().add(ME, EntryKind.KEY, MOTHER, mothers_key(seq, FATHER))
    acted(forge, seq, by="", author=FATHER)
    forge.later().add(ME, EntryKind.KEY, FATHER, mothers_key(seq, retired=True))
    forge.add(ME, EntryKind.AUTHORITY, DAEMON, authority())
    return acted(forge, len(forge.chains[ME]))


def singly(name: str, want: str, forge: Forge, seqs: Collection[int], *, withheld: Collection[int] = (),
           chains: Collection[str] = ("ledger", "participant/bank")) -> Vector:  # fmt: skip
    """Return evidence of these entries of the person as single ones; the statements of *withheld* are not there."""
    proof = forge.proof(ME)
    _, stored = tiles.Edge().append([merkle.leaf_hash(leaf) for leaf in forge.leaves])
    found = []
    for seq in sorted(seqs):
        entry = forge.chains[ME][seq - 1]
        index = forge.leaves.index(entry.leaf)
        inclusion = tuple(tiles.prove_inclusion(index, len(forge.leaves), stored))
        shown = replace(entry, opening=None) if seq in withheld else entry
        found.append(SingleEntry(index=index, entry=shown, inclusion=inclusion))
    scope = Scope(first=found[0].index, last=found[0].index)
    named = tuple(one for one in proof.chains if one.public_name in chains)
    content = format_evidence(Evidence(scope=scope, proof=replace(proof, chains=named), entries=tuple(found)))
    return evidence_vector(f"in part: {name}", want, content)


def partial() -> Iterator[Vector]:
    """Yield all of them."""
    forge = whole_chain()
    last = len(forge.chains[ME])
    yield history_vector("in part: whole", "ok", to_document(forge.proof(ME)), tag=b64(ME))
    yield singly("all entries, one by one", "undetermined", forge, range(1, last + 1))
    yield singly("a later key without the first", "ok", forge, (3, 8))
    for seq in range(3, last + 1):
        kept = [one for one in range(1, last + 1) if one != seq]
        yield singly(f"without entry {seq}", "undetermined", forge, kept)
        yield singly(f"without statement {seq}", "undetermined", forge, range(1, last + 1), withheld=[seq])
    for seq in (5, 7):
        yield singly(f"KEY {seq} of the representative alone", "undetermined", forge, (seq,))
    yield singly("without the chain of the daemon's keys", "undetermined", forge, (last - 1, last), chains=())
    for name, unread in (("of a later version", FOREIGN_FIELD), ("that does not decode", b"\xff")):
        forge, seq = given(authority(participant_id="", key=MOTHER.public_key))
        forge.add(ME, EntryKind.KEY, DAEMON, mothers_key(seq) + unread)
        forge.later().add(ME, EntryKind.KEY, DAEMON, mothers_key(seq, FATHER))
        signed = acted(forge, seq, by="", author=FATHER)
        document = to_document(signed.proof(ME))
        yield history_vector(f"in part: a later key, the first {name}", "any", document, tag=b64(ME))
        yield evidence_vector(f"in part: a later key, the first {name}", "undetermined", document)
    # What is there speaks against who signed it, whatever is missing.
    forge, seq = given(authority(participant_id="", key=MOTHER.public_key))
    forge.add(ME, EntryKind.KEY, DAEMON, mothers_key(seq, FATHER))
    yield singly("the first key is not the pinned one", "signature", forge, (seq, seq + 1))
    forge, seq = given()
    forge.later().add(ME, EntryKind.GRANT, DAEMON, act(EntryKind.GRANT, seq, "hospital"))
    yield singly("attested by another", "signature", forge, (seq, seq + 1))
