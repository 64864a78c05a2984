/** Verify histories, receipts and audit bundles of a consentd ledger, offline. */

export { decodeBase64, decodeHex, encodeBase64, encodeHex } from "./bytes.js";
export type { BundleChain, BundleEntry, BundleEvidence, BundleOptions } from "./bundle.js";
export { verifyBundle } from "./bundle.js";
export type { BundleFile, BundleScope, SingleEntry } from "./bundle_file.js";
export { parseBundle } from "./bundle_file.js";
export type { Checkpoint, ProofBundle } from "./checkpoint.js";
export { parseProof } from "./checkpoint.js";
export type { Event, Seal, Statement } from "./codec.js";
export { decodeLeaf, decodeStatement, publicTag } from "./codec.js";
export { MalformedError, ProofError, SignatureError, UnreadKeyError, VerificationError } from "./errors.js";
export { HISTORY_FORMAT, parseHistory } from "./file.js";
export type { ChainProof, Held, HeldChain, HistoryEntry, HistoryProof, Opening } from "./history.js";
export type { Kind, Owner } from "./kinds.js";
export { KINDS } from "./kinds.js";
export { parseVkey, Verifier } from "./note.js";
export type { Cosignature, Policy, PolicyGroup, PolicyWitness } from "./policy.js";
export { parsePolicy } from "./policy.js";
export type { SeqRange } from "./pruned.js";
export type { HeldKey, KeyTerm } from "./terms.js";
export type { Trust } from "./trust.js";
export type {
  HistoryEvidence,
  HistoryOptions,
  ProvenEntry,
  ReceiptEvidence,
  Unread,
} from "./verify.js";
export { NOT_PROVEN, NOT_PROVEN_OF_PRUNED, verifyHistory, verifyReceipt } from "./verify.js";
