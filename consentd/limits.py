"""The limits that callers meet. Made from ``proto/limits.toml`` by ``make proto``: change that file."""

from typing import Final

STATEMENT_BYTES: Final = 16_384
"""At most 16,384 bytes: a statement, serialised. Otherwise: TOO_LARGE."""

TEXT_BYTES: Final = 2_048
"""At most 2,048 bytes: each text of a statement (a name, a note, a method, a title, a URI, a reference), in UTF-8.
Otherwise: TOO_LARGE."""

QUESTION_BYTES: Final = 4_096
"""At most 4,096 bytes: a question, serialised. Otherwise: TOO_LARGE."""

NETWORK_ORIGIN_BYTES: Final = 256
"""At most 256 bytes: the network address that a gateway states for its asker, in UTF-8. Otherwise: TOO_LARGE."""

BATCH_ITEMS: Final = 1_000
"""At most 1,000 items: a batch; an operator may set a lower limit (`max_batch_items`). Otherwise: TOO_LARGE."""

BATCH_ANSWER_BYTES: Final = 3_145_728
"""At most 3,145,728 bytes: the answers of a batch, because gRPC clients refuse responses of more than 4 MiB. Otherwise:
BATCH_LIMIT, the items after are refused."""

BATCH_PROVISIONS: Final = 200_000
"""At most 200,000 provisions: the consents of the persons of a batch; a person who reaches the limit is the last one
who is answered. Otherwise: BATCH_LIMIT."""

EXACT_BATCH_ITEMS: Final = 100
"""At most 100 items: a BatchCheck with the consistency at_exact. Otherwise: TOO_LARGE."""

EXACT_ENTRIES: Final = 500_000
"""At most 500,000 entries: the chains that a question with the consistency at_exact is answered from. Otherwise:
TOO_LARGE."""

WAIT_SECONDS: Final = 30
"""At most 30 seconds: how long a call waits for a state or a checkpoint, also if its deadline is later. Otherwise: it
is answered, or fails with REVISION_NOT_REACHED."""

PAGE_ITEMS: Final = 1_000
"""At most 1,000 items: a page of a list. Otherwise: a larger page_size means this many."""

PAGE_READS: Final = 2_000
"""At most 2,000 items: what a page of a list reads, selected or not. Otherwise: the page ends, short or empty, and has
a next page."""

PAGE_PERSONS: Final = 2_500
"""At most 2,500 persons: what a page of a list over many persons reads, selected or not; a person with many consents
counts as several. Otherwise: the page ends, short or empty, and has a next page."""

ACCESS_OUTCOMES: Final = 100
"""At most 100 outcomes: the outcomes that are shown with an access. Otherwise: the first of them are shown; the
person's history has all."""

IDENTIFIER_SCHEME_CHARACTERS: Final = 64
"""At most 64 characters: the scheme of an identifier. Otherwise: INVALID_IDENTIFIER."""

IDENTIFIER_VALUE_CHARACTERS: Final = 256
"""At most 256 characters: the value of an identifier. Otherwise: INVALID_IDENTIFIER."""

PUBLIC_NAME_CHARACTERS: Final = 128
"""At most 128 characters: the name of a public chain. Otherwise: TOO_LARGE."""

PARTICIPANT_ID_CHARACTERS: Final = 63
"""At most 63 characters: the id of a participant, the name of a notice in its id, or the id of a group after `group/`.
Otherwise: INVALID_REQUEST."""

NAME_LANGUAGES: Final = 32
"""At most 32 languages: a name of a participant, a code or a notice. Otherwise: TOO_LARGE."""

LANGUAGE_TAG_CHARACTERS: Final = 35
"""At most 35 characters: the tag of a language (RFC 5646, section 4.4.1). Otherwise: INVALID_REQUEST."""

PROVISION_LEVELS: Final = 8
"""At most 8 levels: nested provisions, the root included. Otherwise: INVALID_CONSENT."""

CONSENT_PROVISIONS: Final = 256
"""At most 256 provisions: a consent, the root included. Otherwise: INVALID_CONSENT."""

POLICY_URIS: Final = 16
"""At most 16 items: policy_uris of a consent. Otherwise: INVALID_CONSENT."""

POLICY_URI_BYTES: Final = 512
"""At most 512 bytes: each of the policy_uris of a consent. Otherwise: INVALID_CONSENT."""

PERSON_PROVISIONS: Final = 2_000
"""At most 2,000 provisions: a person's consents, after one that permits something. Otherwise: LIMIT_REACHED."""

PERSON_LIST_BYTES: Final = 131_072
"""At most 131,072 bytes: the lists of a person's consents, after one that permits something. Otherwise:
LIMIT_REACHED."""

PERSON_STORED_PROVISIONS: Final = 6_000
"""At most 6,000 provisions: a person's consents, after any consent. Otherwise: LIMIT_REACHED."""

PERSON_STORED_LIST_BYTES: Final = 524_288
"""At most 524,288 bytes: the lists of a person's consents, after any consent. Otherwise: LIMIT_REACHED."""

CONSENT_USES: Final = 128
"""At most 128 uses: the transfers of a consent that recurs, in its present periods, each of one holder. Otherwise: the
consent permits no further transfer until one of these periods is over."""

NOTICE_VERSIONS: Final = 1_000
"""At most 1,000 versions: the versions of one notice. Otherwise: LIMIT_REACHED."""

GIVEN_DELEGATIONS: Final = 1_000
"""At most 1,000 delegations: what one participant gives. Otherwise: LIMIT_REACHED."""

REALM_RULES: Final = 1_024
"""At most 1,024 provisions: the statutory rules of a realm, and its break-glass rules. Otherwise: INVALID_CONSENT."""

VOCABULARY_PURPOSES: Final = 64
"""At most 64 codes: the purposes of a vocabulary. Otherwise: INVALID_REQUEST."""

VOCABULARY_CATEGORIES: Final = 64
"""At most 64 codes: the categories of a vocabulary. Otherwise: INVALID_REQUEST."""

VOCABULARY_ACTIONS: Final = 16
"""At most 16 codes: the actions of a vocabulary. Otherwise: INVALID_REQUEST."""

VOCABULARY_LABELS: Final = 32
"""At most 32 codes: the labels of a vocabulary. Otherwise: INVALID_REQUEST."""

VOCABULARY_REFUSAL_GROUNDS: Final = 64
"""At most 64 codes: the grounds of refusals of a vocabulary. Otherwise: INVALID_REQUEST."""

VOCABULARY_LEGAL_BASES: Final = 64
"""At most 64 codes: the legal bases of a vocabulary. Otherwise: INVALID_REQUEST."""

VOCABULARY_EVIDENCE: Final = 64
"""At most 64 codes: the kinds of evidence of a vocabulary. Otherwise: INVALID_REQUEST."""

VOCABULARY_CODE_CHARACTERS: Final = 64
"""At most 64 characters: a code of a vocabulary. Otherwise: INVALID_REQUEST."""

ENTRIES_PER_DAY: Final = 1_000
"""At most 1,000 entries: the entries of one caller in the chain of one person in a day, unless the realm's rules state
another quota. Otherwise: QUOTA_EXCEEDED."""

REFUSALS_PER_DAY: Final = 100
"""At most 100 entries: the refusals among these entries, unless the realm's rules state another quota. Otherwise:
QUOTA_EXCEEDED."""

PERSONS_PER_HOUR: Final = 2_000
"""At most 2,000 persons: the persons that one caller checks in an hour without an access, unless the realm's rules
state another quota. Otherwise: QUOTA_EXCEEDED."""

QUOTA_ENTRIES_PER_DAY: Final = 60_000
"""At most 60,000 entries: the quota entries_per_day that the rules of a realm may state. Otherwise: INVALID_REQUEST."""

QUOTA_REFUSALS_PER_DAY: Final = 60_000
"""At most 60,000 entries: the quota refusals_per_day that the rules of a realm may state. Otherwise:
INVALID_REQUEST."""

QUOTA_PERSONS_PER_HOUR: Final = 100_000
"""At most 100,000 persons: the quota persons_per_hour that the rules of a realm may state. Otherwise:
INVALID_REQUEST."""

CERTIFICATE_NAMES: Final = 16
"""At most 16 names: the certificate names of a participant. Otherwise: TOO_LARGE."""

CERTIFICATE_NAME_CHARACTERS: Final = 300
"""At most 300 characters: a certificate name of a participant, with its type. Otherwise: TOO_LARGE."""

CREDENTIAL_LABEL_CHARACTERS: Final = 100
"""At most 100 characters: the label of a credential. Otherwise: INVALID_REQUEST."""

BACKUP_NAME_CHARACTERS: Final = 64
"""At most 64 characters: the name of a backup. Otherwise: INVALID_REQUEST."""

DECISION_REASONS: Final = 100
"""At most 100 reasons: a decision. Otherwise: the first are kept."""

RECORDED_REASON_BYTES: Final = 6_144
"""At most 6,144 bytes: the reasons of a recorded decision, serialised. Otherwise: the first are kept."""

RESIDUAL_PROVISIONS: Final = 100
"""At most 100 provisions: a residual: those that it has conditions of. Otherwise: nothing is permitted on
conditions."""

RESIDUAL_REFERENCES: Final = 1_000
"""At most 1,000 references: a residual: those to resources. Otherwise: nothing is permitted on conditions."""

JUSTIFICATION_LETTERS: Final = 10
"""At least 10 letters: the justification of an emergency access. Otherwise: BREAK_GLASS_SHAPE."""

AUTHOR_SKEW_MS: Final = 600_000
"""At most 600,000 ms: the difference between the clock of a statement's author and the ledger's clock. Otherwise:
AUTHOR_CLOCK."""

ERROR_MESSAGE_CHARACTERS: Final = 300
"""At most 300 characters: the message of an error. Otherwise: it is cut."""

ID_TOKEN_BYTES: Final = 8_192
"""At most 8,192 bytes: an ID token. Otherwise: INVALID_ID_TOKEN."""

CALL_SKEW_MS: Final = 60_000
"""At most 60,000 milliseconds: between the time in a call signature and the daemon's clock. Otherwise:
INVALID_CALL_SIGNATURE."""

PERSON_KEYS: Final = 8
"""At most 8 keys: the keys of one person that are in force. Otherwise: LIMIT_REACHED."""

HTTP_HEAD_BYTES: Final = 16_384
"""At most 16,384 bytes: the first line and the headers of an HTTP request. Otherwise: the request is refused with
status 431."""

EVIDENCE_BYTES: Final = 402_653_184
"""At most 402,653,184 bytes: a file of evidence. Otherwise: no such file is made, and a verifier does not read it: ask
for a smaller scope."""

EVIDENCE_ENTRIES: Final = 1_000_000
"""At most 1,000,000 entries: the single entries of a file of evidence; those of whole chains are not counted.
Otherwise: no such file is made: ask for a smaller scope."""

AUTHORITY_EVIDENCE: Final = 16
"""At most 16 papers: the evidence of one authority. Otherwise: INVALID_REQUEST."""
