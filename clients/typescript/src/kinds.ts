/**
 * Name the kinds of event leaves, and who may author them. Numbers are never reused.
 *
 * Source: ledger-format.md, "Kinds".
 */

/** Whose key signed a statement: the daemon's, a participant's, the person's own, or their representative's. */
export type Owner = "ledger" | "participant" | "subject" | "representative";

/** What a kind is called, and who may author it. */
export interface Kind {
  readonly name: string;
  readonly authors: ReadonlySet<Owner>;
}

export const LEDGER = 1;
export const PARTICIPANT = 2;
export const KEY = 3;
export const NOTICE = 5;
export const AUTHORITY = 7;
export const ACCESS = 13;
export const OUTCOME = 15;
export const SERVED = 19;
export const ERASURE = 20;
export const DELEGATION = 22;
export const MANDATE = 23;
export const READ = 24;
export const ADMINISTRATION = 25;

const DAEMON: ReadonlySet<Owner> = new Set(["ledger"]);
const PERSON: ReadonlySet<Owner> = new Set(["ledger", "subject"]);
const ACTING: ReadonlySet<Owner> = new Set(["ledger", "subject", "representative"]);
const PARTICIPANTS: ReadonlySet<Owner> = new Set(["ledger", "participant"]);

/** All owners. Any of them may author a kind that this version does not know. */
export const ANYBODY: ReadonlySet<Owner> = new Set(["ledger", "participant", "subject", "representative"]);

/** Report whether statements of a kind may be pruned: GRANT … OUTCOME, SERVED, READ. Keys depend on none of these. */
export function isPrunable(kind: number): boolean {
  return (kind >= 8 && kind <= 15) || kind === SERVED || kind === READ;
}

/** Report whether a kind is in public chains only: LEDGER, PARTICIPANT, VOCABULARY, NOTICE, RULES, DELEGATION,
 * MANDATE, ADMINISTRATION. Persons' chains have KEY too.
 */
export function isPublic(kind: number): boolean {
  return [1, 2, 4, 5, 21, DELEGATION, MANDATE, ADMINISTRATION].includes(kind);
}

/** The kinds that this version knows. Where the daemon signs what a caller states, the statement says so. */
export const KINDS: ReadonlyMap<number, Kind> = new Map([
  [1, { name: "LEDGER", authors: DAEMON }],
  // Which participant may sign a PARTICIPANT, KEY, NOTICE … and which representative what: key_validity.ts.
  [PARTICIPANT, { name: "PARTICIPANT", authors: PARTICIPANTS }],
  [3, { name: "KEY", authors: ANYBODY }],
  // The vocabulary and the rules are the realm's. The daemon signs them, and an operator attests them.
  [4, { name: "VOCABULARY", authors: DAEMON }],
  [NOTICE, { name: "NOTICE", authors: PARTICIPANTS }],
  [6, { name: "ENROL", authors: DAEMON }],
  [AUTHORITY, { name: "AUTHORITY", authors: ACTING }],
  [8, { name: "GRANT", authors: ACTING }],
  [9, { name: "AMEND", authors: ACTING }],
  [10, { name: "PAUSE", authors: ACTING }],
  [11, { name: "RESUME", authors: ACTING }],
  [12, { name: "REVOKE", authors: ACTING }],
  // A decision is the daemon's own statement. It contains the question, which the asker signed.
  [ACCESS, { name: "ACCESS", authors: DAEMON }],
  [14, { name: "REFUSAL", authors: DAEMON }],
  [OUTCOME, { name: "OUTCOME", authors: PARTICIPANTS }],
  [16, { name: "DISPUTE", authors: PERSON }],
  [17, { name: "RESOLUTION", authors: PARTICIPANTS }],
  [18, { name: "DUTY", authors: PARTICIPANTS }],
  // Of participants, each that may have shown a notice.
  [SERVED, { name: "SERVED", authors: ANYBODY }],
  [20, { name: "ERASURE", authors: PARTICIPANTS }],
  [21, { name: "RULES", authors: DAEMON }],
  [DELEGATION, { name: "DELEGATION", authors: PARTICIPANTS }],
  [MANDATE, { name: "MANDATE", authors: PARTICIPANTS }],
  [READ, { name: "READ", authors: DAEMON }],
  [ADMINISTRATION, { name: "ADMINISTRATION", authors: DAEMON }],
]);
