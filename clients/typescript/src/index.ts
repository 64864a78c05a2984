/** Verify histories, other evidence and receipts of a consentd ledger, offline. */

export { decodeBase64, decodeHex, encodeBase64, encodeHex } from "./bytes.js";
export type { ProvenChain, ProvenEntry, Unread } from "./chains.js";
export { NOT_PROVEN_OF_PRUNED } from "./chains.js";
export type { Checkpoint, TlogProof } from "./checkpoint.js";
export { parseProof } from "./checkpoint.js";
export type { Event, Seal, Statement } from "./codec.js";
export { decodeLeaf, decodeStatement, publicTag } from "./codec.js";
export { MalformedError, ProofError, SignatureError, UnreadKeyError, VerificationError } from "./errors.js";
export type { Evidence, Scope, SingleEntry } from "./evidence.js";
export { EVIDENCE_FORMAT, parseEvidence } from "./evidence.js";
export type { ChainProof, Held, HeldChain, HistoryEntry, HistoryProof, Opening } from "./history.js";
export type { KeyChange, KeyValidity } from "./key_validity.js";
export type { Kind, Owner } from "./kinds.js";
export { KINDS } from "./kinds.js";
export { parseVkey, Verifier } from "./note.js";
export type { SeqRange } from "./pruned.js";
export type { Cosignature, Policy, PolicyGroup, PolicyWitness, Trust } from "./quorum.js";
export { parsePolicy } from "./quorum.js";
export type { EvidenceResult, HistoryOptions, HistoryResult, ProvenSingle, ReceiptResult } from "./verify.js";
export { NOT_PROVEN, verifyEvidence, verifyHistory, verifyReceipt } from "./verify.js";
