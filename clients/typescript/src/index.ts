/** Verify histories, other evidence and receipts of a consentd ledger, offline; sign with a person's own key. */

export { decodeBase64, decodeHex, encodeBase64, encodeHex } from "./bytes.js";
export { NOT_PROVEN_OF_PRUNED, type ProvenChain, type ProvenEntry, type Unread } from "./chains.js";
export { type Checkpoint, parseProof, type TlogProof } from "./checkpoint.js";
export { decodeLeaf, decodeStatement, type Event, publicTag, type Seal, type Statement } from "./codec.js";
export { MalformedError, ProofError, SignatureError, UnknownKeyError, VerificationError } from "./errors.js";
export { type Evidence, EVIDENCE_FORMAT, parseEvidence, type Scope, type SingleEntry } from "./evidence.js";
export type { ChainProof, Held, HeldChain, HistoryEntry, HistoryProof, Opening } from "./history.js";
export type { RotationProof, SeqRange } from "./history.js";
export type { KeyChange, KeyValidity } from "./key_validity.js";
export { type Kind, KINDS, type Owner } from "./kinds.js";
export { parseVkey, Verifier } from "./note.js";
export type { FollowedKey } from "./rotation.js";
export type { Cosignature, Policy, PolicyGroup, PolicyWitness, Trust } from "./quorum.js";
export { parsePolicy } from "./quorum.js";
export { CALL_SIGNATURE_HEADER, type CallToSign, PersonKey, type SignedFields, type StatementToSign } from "./sign.js";
export type { EvidenceResult, HistoryOptions, HistoryResult, ProvenSingle, ReceiptResult } from "./verify.js";
export type { ReducedReceipt, ReducedReceiptResult } from "./verify.js";
export { NOT_PROVEN, verifyEvidence, verifyHistory, verifyReceipt, verifyReducedReceipt } from "./verify.js";
