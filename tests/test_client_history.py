"""The Python client against daemons that lie about a history."""

from collections.abc import Callable
from dataclasses import replace

import grpc
import pytest
from google.protobuf.message import DecodeError

import consentd_client
from cases.clients import SENT, FakeRpcError, Stream, faking
from cases.reference_tree import Naive
from cases.small_ledgers import (
    CLINIC,
    CLINIC_TAG,
    ENROLLED,
    GRANTED,
    LEDGER_TAG,
    LOG,
    ORIGIN,
    PERSON,
    REVOKED,
    SMALL,
    STRANGER,
    SUBJECT,
    TAG,
    Small,
    reading,
    remembered,
    small,
)
from consentd.core import checkpoint, codec, note
from consentd.core.kinds import EntryKind
from consentd.errors import (
    MalformedError,
    NotFoundError,
    ProofError,
    SignatureError,
    VerificationError,
)
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import statement_pb2 as st
from consentd_client import (
    KeyPair,
    RamMemory,
    ledger,
    pin,
    verify_receipt,
)


def test_an_honest_history_is_shown() -> None:
    made = small()
    made.add(EntryKind.OUTCOME, TAG, SENT, key=CLINIC)
    made.add(EntryKind.KEY, TAG, st.KeyStatement(key=PERSON.public_key))
    made.person(GRANTED, key=PERSON)
    found = reading(made.history).history(SUBJECT, tag=TAG)
    assert [(entry.kind_name, entry.author) for entry in found.entries] == [
        ("ENROL", "ledger"), ("GRANT", "ledger"), ("REVOKE", "ledger"), ("OUTCOME", "participant/clinic-b"),
        ("KEY", "ledger"), ("GRANT", "subject"),
    ]  # fmt: skip
    assert found.entries[1].message == GRANTED
    assert found.seal_time_ms == found.entries[-1].time_ms + 1
    assert made.history()[0].head.seal_inclusion  # a tree worth proving in


Lie = Callable[[Stream], None]


def drop_last(pieces: Stream) -> None:
    del pieces[4]


def drop_middle(pieces: Stream) -> None:
    del pieces[3]


def drop_last_and_say_so(pieces: Stream) -> None:
    del pieces[4]
    pieces[1].chain.count -= 1
    pieces[1].chain.head = codec.chain_hash(pieces[3].entries.entries[0].leaf)


def say_none(pieces: Stream) -> None:
    del pieces[2:5]
    pieces[1].chain.count, pieces[1].chain.head = 0, b""


def change_leaf(pieces: Stream) -> None:
    entry = pieces[3].entries.entries[0]
    entry.leaf = entry.leaf[:9] + bytes([entry.leaf[9] ^ 1]) + entry.leaf[10:]


def change_statement(pieces: Stream) -> None:
    opening = pieces[3].entries.entries[0].opening
    opening.statement = opening.statement[:-1] + bytes([opening.statement[-1] ^ 1])


def change_salt(pieces: Stream) -> None:
    pieces[3].entries.entries[0].opening.salt = bytes(32)


def hide_statement(pieces: Stream) -> None:
    pieces[3].entries.entries[0].ClearField("opening")


def swap(pieces: Stream) -> None:
    pieces[3], pieces[4] = pieces[4], pieces[3]


def double(pieces: Stream) -> None:
    pieces.insert(4, pieces[3])


def other_tag(pieces: Stream) -> None:
    pieces[1].chain.tag = b"\x78" * 32


def name_it(pieces: Stream) -> None:
    pieces[1].chain.public_name = "ledger"


def start_later(pieces: Stream) -> None:
    del pieces[2]
    pieces[1].chain.first_seq = 2


def break_map(pieces: Stream) -> None:
    pieces[1].chain.map_proof = pieces[1].chain.map_proof[:-1] + b"\x00"


def other_seal(pieces: Stream) -> None:
    pieces[0].head.seal = codec.encode_seal(
        replace(codec.decode_leaf(pieces[0].head.seal), map_root=b"\x01" * 32)  # type: ignore[type-var]
    )


def no_ledger(pieces: Stream) -> None:
    location = next(n for n, piece in enumerate(pieces) if piece.chain.public_name == "ledger")
    del pieces[location : location + 2]


def ledger_twice(pieces: Stream) -> None:
    pieces.extend(pieces[5:7])


def needless_chain(pieces: Stream) -> None:
    location = next(n for n, piece in enumerate(pieces) if piece.chain.public_name == "ledger")
    pieces[location].chain.public_name = "notice/n"


def unsigned(pieces: Stream) -> None:
    head = pieces[0].head
    head.checkpoint = head.checkpoint.replace(ORIGIN.encode(), b"consent.test/other", 1)


def uncalled_consistency(pieces: Stream) -> None:
    pieces[0].head.consistency.append(bytes(32))


def no_head(pieces: Stream) -> None:
    del pieces[0]


def two_heads(pieces: Stream) -> None:
    pieces.insert(1, pieces[0])


def entries_first(pieces: Stream) -> None:
    pieces[1], pieces[2] = pieces[2], pieces[1]


def empty_piece(pieces: Stream) -> None:
    pieces.append(ls.GetHistoryResponse())


def head_only(pieces: Stream) -> None:
    del pieces[1:]


LIES = (
    drop_last, drop_middle, drop_last_and_say_so, say_none, change_leaf, change_statement, change_salt, hide_statement,
    swap, double, other_tag, name_it, start_later, break_map, other_seal, no_ledger, ledger_twice, needless_chain,
    unsigned, uncalled_consistency, no_head, two_heads, entries_first, empty_piece, head_only,
)  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_caught_and_not_remembered(lie: Lie) -> None:
    pieces = small().history()
    assert [piece.WhichOneof("piece") for piece in pieces[:5]] == ["head", "chain", "entries", "entries", "entries"]
    memory = RamMemory()
    lie(pieces)
    with pytest.raises(VerificationError):
        reading(pieces, memory=memory).history(SUBJECT)
    assert memory.checkpoint() is None
    assert memory.history(ledger.memory_key(SUBJECT)) is None


def test_every_byte_of_what_is_sent_counts() -> None:
    """Flip one bit in each field of bytes: nothing is shown, and nothing but a verification error is raised."""
    honest = small().history()
    caught = 0
    for at, piece in enumerate(honest):
        for position in range(0, piece.ByteSize(), 7):
            whole = bytearray(piece.SerializeToString())
            whole[position] ^= 4
            pieces = Stream(honest)
            try:
                pieces[at] = ls.GetHistoryResponse.FromString(bytes(whole))
            except DecodeError:  # no message any more: gRPC would not deliver it
                continue
            changed = pieces[at] != piece and not same_but_for_indexes(pieces[at], piece)
            try:
                found = reading(pieces).history(SUBJECT)
            except VerificationError:
                caught += 1
            else:
                assert not changed, (at, position)
                assert len(found.entries) == 3
    assert caught > 100


def same_but_for_indexes(one: ls.GetHistoryResponse, other: ls.GetHistoryResponse) -> bool:
    """An entry's index is not shown in a history, so it need not be proven; nor need unknown fields."""

    def bare(piece: ls.GetHistoryResponse) -> ls.GetHistoryResponse:
        copy = ls.GetHistoryResponse()
        copy.CopyFrom(piece)
        copy.DiscardUnknownFields()
        for entry in copy.entries.entries:
            entry.index = 0
        return copy

    return bare(one) == bare(other)


def test_a_statement_by_a_key_that_was_not_in_force_is_caught() -> None:
    for key in (STRANGER, CLINIC):  # nobody's; and a participant's, which may not speak for the person
        made = small()
        made.person(GRANTED, key=key)
        with pytest.raises(SignatureError):
            reading(made.history).history(SUBJECT)
    made = small()
    made.add(EntryKind.KEY, CLINIC_TAG, st.KeyStatement(key=CLINIC.public_key, retired=True))
    made.person(ENROLLED)
    made.add(EntryKind.OUTCOME, TAG, SENT, key=CLINIC)
    with pytest.raises(SignatureError):
        reading(made.history).history(SUBJECT)
    made = small()
    made.add(EntryKind.GRANT, TAG, GRANTED, origin="another")
    with pytest.raises(SignatureError):
        reading(made.history).history(SUBJECT)


WITNESSES = [note.Signer(f"w{n}.test", KeyPair(bytes([0x20 + n]) * 32), note.COSIGNATURE) for n in range(3)]
POLICY = "\n".join(
    [f"witness w{n} {note.format_vkey(one.verifier)}" for n, one in enumerate(WITNESSES)]
    + ["group all 2 w0 w1 w2", "quorum all", ""]
).encode()


def answer_checkpoint(made: Small) -> Callable[[ls.GetCheckpointRequest], ls.GetCheckpointResponse]:
    return lambda request: ls.GetCheckpointResponse(checkpoint=made.note())


def test_witnesses_that_are_pinned_must_have_cosigned() -> None:
    now_s = 1_500  # a moment after the seal, by the small ledger's clock
    trust = pin(LOG.verifier, policy=POLICY)
    first, second, third = WITNESSES
    stranger = note.Signer("w9.test", KeyPair(b"\x29" * 32), note.COSIGNATURE)
    for cosigned, holds in (
        ([(first, now_s), (third, now_s - 200)], True),
        ([(first, now_s), (second, now_s), (third, now_s)], True),
        ([], False),
        ([(first, now_s)], False),
        ([(first, now_s), (stranger, now_s)], False),
        ([(first, now_s), (first, now_s)], False),
        ([(first, now_s), (second, now_s - 400)], False),  # too long ago
    ):
        made = small()
        made.cosigned = cosigned
        client = reading(made.history, answer_checkpoint(made), trust=trust, now_ms=now_s * 1000)
        if holds:
            assert len(client.history(SUBJECT).entries) == 3
            assert client.get_checkpoint().size == 7
        else:
            with pytest.raises(SignatureError):
                client.history(SUBJECT)
            with pytest.raises(SignatureError):
                client.get_checkpoint()
    # A receipt is evidence for ever: its cosignatures may be old, but must be there.
    made = small()
    for cosigned, holds in (([(first, 10), (second, 20)], True), ([(first, 10)], False)):
        made.cosigned = cosigned
        path = Naive(made.leaves).path(0, 0, len(made.leaves))
        proof = checkpoint.format_proof(checkpoint.ProofBundle(b"", 0, tuple(path), made.note()))
        if holds:
            assert verify_receipt(made.leaves[0], proof, trust).size == len(made.leaves)
        else:
            with pytest.raises(SignatureError):
                verify_receipt(made.leaves[0], proof, trust)
    with pytest.raises(MalformedError):
        pin(LOG.verifier, policy=b"nonsense")


def test_no_key_vouches_for_itself() -> None:
    for tag in (TAG, CLINIC_TAG):
        made = small()
        made.add(EntryKind.KEY, tag, st.KeyStatement(key=STRANGER.public_key), key=STRANGER)
        with pytest.raises(SignatureError):
            reading(made.history).history(SUBJECT)
    made = small()
    made.add(EntryKind.LEDGER, LEDGER_TAG, st.LedgerStatement(statement_key=STRANGER.public_key), key=STRANGER)
    with pytest.raises(SignatureError):
        reading(made.history).history(SUBJECT)


def test_keys_of_one_millisecond_may_rest_on_each_other() -> None:
    made = small()
    made.clock_ms = made.now_ms()
    # The daemon's second key, and one that it puts in force for the person, in a chain that is streamed before.
    made.add(EntryKind.LEDGER, LEDGER_TAG, st.LedgerStatement(origin=ORIGIN, statement_key=STRANGER.public_key))
    made.add(EntryKind.KEY, TAG, st.KeyStatement(key=PERSON.public_key), key=STRANGER)
    made.clock_ms = None
    made.person(GRANTED, key=PERSON)
    found = reading(made.history).history(SUBJECT)
    assert [entry.author for entry in found.entries[3:]] == ["ledger", "subject"]


def test_no_participant_puts_a_key_of_a_person_in_force() -> None:
    made = small()
    made.add(EntryKind.KEY, CLINIC_TAG, st.KeyStatement(key=STRANGER.public_key))
    made.add(EntryKind.KEY, TAG, st.KeyStatement(key=PERSON.public_key), key=STRANGER)
    with pytest.raises(SignatureError):
        reading(made.history).history(SUBJECT)


def test_a_ledger_that_is_not_the_pinned_one_is_caught() -> None:
    other = note.format_vkey(note.Signer(ORIGIN, STRANGER).verifier)
    for stated in ({"origin": "consent.test/other"}, {"verifier_keys": []}, {"verifier_keys": [other]}):
        with pytest.raises(ProofError):
            reading(Small(**stated).person(ENROLLED).history).history(SUBJECT)
    with pytest.raises(SignatureError):
        reading(small().history, trust=pin(other)).history(SUBJECT)


def test_a_tag_other_than_the_pinned_one_is_caught() -> None:
    with pytest.raises(ProofError):
        reading(small().history).history(SUBJECT, tag=b"\x01" * 32)


def test_a_history_goes_on_from_what_is_remembered() -> None:
    made = small()
    memory = remembered(made)
    made.person(GRANTED)
    client, channel = faking(made.history, trust=SMALL, memory=memory)
    found = client.history(SUBJECT)
    assert [entry.is_new for entry in found.entries] == [False, False, False, True]
    assert ls.GetHistoryRequest.FromString(channel.requests[0]).known_count == 3
    again = reading(made.history, memory=memory).history(SUBJECT)
    assert [entry.is_new for entry in again.entries] == [False] * 4
    assert [entry.message for entry in again.entries] == [entry.message for entry in found.entries]


def test_a_rollback_is_caught() -> None:
    old = small()
    before = old.history()
    made = small()
    memory = remembered(made)
    made.person(GRANTED)
    reading(made.history, memory=memory).history(SUBJECT)
    # It says that it knows no such size, so the evidence is asked for.
    client, channel = faking(old.history, before, trust=SMALL, memory=memory)
    with pytest.raises(ProofError) as caught:
        client.history(SUBJECT)
    assert ls.GetHistoryRequest.FromString(channel.requests[1]).known_count == 0
    assert [text.partition(":")[0] for text in caught.value.__notes__] == ["checkpoint shown", "checkpoint remembered"]
    # It shows the old state straight away.
    with pytest.raises(ProofError):
        reading(before, memory=memory).history(SUBJECT)


def test_a_rewritten_past_is_caught() -> None:
    memory = remembered(small())
    other = Small()
    other.add(EntryKind.PARTICIPANT, CLINIC_TAG, st.ParticipantStatement(participant_id="clinic-b"))
    other.person(ENROLLED, REVOKED, REVOKED, GRANTED, GRANTED)
    with pytest.raises(ProofError):
        reading(other.history, memory=memory).history(SUBJECT)


def test_a_chain_shortened_under_a_consistent_tree_is_caught() -> None:
    made = small()
    memory = remembered(made)
    made.add(EntryKind.NOTICE, codec.public_tag("notice/n"), st.NoticeStatement(notice_id="n"))
    last = made.chains[TAG].pop()  # the tree still holds the leaf, the map does not
    with pytest.raises(ProofError, match="shorter than what is remembered"):
        reading(made.history, memory=memory).history(SUBJECT)
    made.chains[TAG].append(last)
    assert len(reading(made.history, memory=memory).history(SUBJECT).entries) == 3


def test_another_tag_than_the_remembered_one_is_caught_until_it_is_forgotten() -> None:
    made = small()
    memory = RamMemory()
    key = ledger.memory_key(SUBJECT)
    honest = made.history()
    memory.remember(made.note(), key, consentd_client.RememberedHistory(b"\x01" * 32, ()))
    with pytest.raises(ProofError, match="another tag than the one remembered"):
        reading(made.history, memory=memory).history(SUBJECT)
    memory.forget(key)
    assert len(reading(made.history, memory=memory).history(SUBJECT).entries) == 3
    assert honest


def test_a_person_who_is_hidden_is_noticed() -> None:
    memory = remembered(small())
    hidden = FakeRpcError(grpc.StatusCode.NOT_FOUND, "SUBJECT_NOT_FOUND")
    with pytest.raises(NotFoundError, match="though a history of 3 entries is remembered"):
        reading(hidden, memory=memory).history(SUBJECT)
    with pytest.raises(NotFoundError) as unknown:
        reading(hidden).history(SUBJECT)
    assert str(unknown.value) == hidden.details()


def test_a_tag_without_entries_is_absent_and_nothing_more() -> None:
    found = reading(Small().history).history(SUBJECT)
    assert (found.is_absent, found.entries, found.is_erased) == (True, (), False)


def test_what_a_later_version_says_is_not_read() -> None:
    made = small()
    made.add(99, TAG, b"whatever")
    made.add(EntryKind.DISPUTE, TAG, b"\x0a\x00")
    made.add(EntryKind.GRANT, TAG, GRANTED.SerializeToString() + b"\xfa\x3f\x01x")  # a field of a later version
    made.add(EntryKind.REVOKE, TAG, b"\xff")
    found = reading(made.history).history(SUBJECT)
    assert [entry.kind_name for entry in found.unread] == ["99", "DISPUTE", "GRANT", "REVOKE"]
    assert "cannot be read by this version" in str(found.unread[0])
    assert {entry.author for entry in found.unread} == {"ledger"}


def test_an_erased_person_leaves_kinds_and_times() -> None:
    made = small()
    memory = remembered(made)
    made.add(EntryKind.ERASURE, TAG, b"")
    erased = made.history()
    for piece in erased[2:5]:
        piece.entries.entries[0].ClearField("opening")
    found = reading(erased).history(SUBJECT)
    assert found.is_erased
    assert [entry.statement is None for entry in found.entries] == [True, True, True, False]
    assert [entry.author for entry in found.entries] == ["", "", "", "ledger"]
    assert str(found.entries[0]).endswith("enrolled: (erased)")
    remembered_too = reading(made.history, memory=memory).history(SUBJECT)
    assert (remembered_too.is_erased, remembered_too.entries[1].message) == (True, GRANTED)
    made.person(GRANTED)
    with pytest.raises(ProofError):
        reading(made.history, memory=memory).history(SUBJECT)


def test_a_stream_without_end_is_cut_off() -> None:
    pieces = small().history()
    client = reading(pieces)
    client.context = replace(client.context, max_stream_bytes=100)
    with pytest.raises(MalformedError):
        client.history(SUBJECT)
    assert pieces.cancelled
