/**
 * Parse a witness policy, and verify a checkpoint under it (C2SP tlog-policy). Read what the caller pinned.
 *
 *     log <vkey> [<url>]
 *     witness <name> <vkey> [<url>]
 *     group <name> <k|any|all> <name>...
 *     quorum <name|none>
 *
 * Names are local to the file. A group and the quorum name witnesses and groups of earlier lines, and each name is a
 * member of one group at most, so that no witness counts twice. Spaces and tabs separate the items of a line, and `#`
 * at the beginning of a line makes the line a comment. A policy may have keys of ML-DSA-44; their signatures do not
 * count here.
 */

import { decodeBase64, decodeText, encodeHex, encodeText, sha256 } from "./bytes.js";
import { parseCheckpoint } from "./checkpoint.js";
import { MalformedError, ProofError, SignatureError } from "./errors.js";
import { COSIGNATURE, ED25519, isBy, openNote, parseVkey, timeOf, type Verifier } from "./note.js";

/** How far the clocks of ledger, witnesses and reader may be apart. */
export const MAX_SKEW_MS = 60_000;

const MLDSA = 0x06;
const KEY_SIZES: ReadonlyMap<number, number> = new Map([[ED25519, 32], [COSIGNATURE, 32], [MLDSA, 1312]]);
const MAX_LINES = 1024;
const NONE = "none";
const FOREIGN = /[^\t\n\x20-\x7e\x80-\u{10ffff}]/u;

/** A witness, by the name that the policy gives it. `key` is null for a type of key that this package cannot verify. */
export interface PolicyWitness {
  readonly name: string;
  readonly key: Verifier | null;
}

/** Members, of which at least `threshold` must have cosigned for the group to count as having cosigned. */
export interface PolicyGroup {
  readonly name: string;
  readonly threshold: number;
  readonly members: readonly string[];
}

/** A witness policy. Each group comes after its members. `quorum` null: no cosignature is needed. */
export interface Policy {
  readonly logs: readonly Verifier[];
  readonly witnesses: readonly PolicyWitness[];
  readonly groups: readonly PolicyGroup[];
  readonly quorum: string | null;
}

/** A witness's cosignature that verified. */
export interface Cosignature {
  readonly name: string;
  readonly timeMs: number;
}

/** Parse a policy file.
 *
 * @throws {MalformedError} a line breaks the format, names what was not named before, or repeats a key or a name; there
 * is not exactly one quorum; or the last line has no newline.
 */
export function parsePolicy(content: Uint8Array): Policy {
  const text = decodeText(content, "policy");
  if (FOREIGN.test(text)) throw new MalformedError("policy has a control character");
  if (!text.endsWith("\n")) throw new MalformedError("policy does not end in a newline");
  const lines = text.slice(0, -1).split("\n");
  if (lines.length > MAX_LINES) throw new MalformedError(`policy has more than ${MAX_LINES} lines`);
  const parsing = new Parsing();
  lines.forEach((line, number) => {
    const bare = line.replace(/^[ \t]+|[ \t]+$/g, "");
    if (!bare || bare.startsWith("#")) return;
    try {
      parsing.read(bare.split(/[ \t]+/));
    } catch (error) {
      if (error instanceof MalformedError) throw new MalformedError(`policy line ${number + 1}: ${error.message}`);
      throw error;
    }
  });
  return parsing.finish();
}

/** Report whether these witnesses, whose cosignatures verified, are a quorum. */
export function isSatisfied({ witnesses, groups, quorum }: Policy, cosigners: ReadonlySet<string>): boolean {
  if (quorum === null) return true;
  const witnessed = new Set(witnesses.map(({ name }) => name).filter((name) => cosigners.has(name)));
  // Members come before their group, so one pass decides each member before its group.
  for (const { name, threshold, members } of groups) {
    if (members.filter((member) => witnessed.has(member)).length >= threshold) witnessed.add(name);
  }
  return witnessed.has(quorum);
}

/** Verify that a checkpoint is a log's, and that a quorum of the policy cosigned it; return who did, and when.
 *
 * @param leafTimeMs time of the leaf that the checkpoint proves. A cosignature from before it cannot have covered it.
 * @throws {MalformedError} it is not a checkpoint note.
 * @throws {SignatureError} no log signed it, a signature by a known key is wrong, or there is no quorum in time.
 * @throws {ProofError} the log that signed it has another name than its origin.
 */
export function verifyCosigned(
  checkpoint: Uint8Array, policy: Policy, log: Verifier, leafTimeMs = 0n,
  { nowMs, maxAgeMs }: Pick<ReadTrust, "nowMs" | "maxAgeMs"> = { nowMs: null, maxAgeMs: null },
): Cosignature[] {
  const logs = policy.logs.some((one) => one.equals(log)) ? policy.logs : [...policy.logs, log];
  const witnesses = policy.witnesses.flatMap(({ name, key }) => (key === null ? [] : [{ name, key }]));
  const opened = openNote(checkpoint, [...logs, ...witnesses.map(({ key }) => key)]);
  const signed = logs.filter((one) => opened.verified.some((line) => isBy(line, one)));
  if (!signed.length) throw new SignatureError("checkpoint is signed by no log of the policy");
  const { origin } = parseCheckpoint(opened.text);
  if (!signed.some(({ name }) => name === origin)) throw new ProofError("checkpoint is of another origin");
  // A cosignature's time has whole seconds, so the reader's clock is compared in whole seconds too.
  const secondMs = Math.floor((nowMs ?? 0) / 1000) * 1000;
  const cosignatures = witnesses.flatMap(({ name, key }) => {
    const times = opened.verified.filter((line) => isBy(line, key)).map(({ signature }) => timeOf(signature));
    if (!times.length) return [];
    const latest = times.reduce((a, b) => (a > b ? a : b)) * 1000n;
    const timeMs = Number(latest);
    if (maxAgeMs !== null && !(secondMs - maxAgeMs <= timeMs && timeMs <= secondMs + MAX_SKEW_MS)) return [];
    return leafTimeMs > latest + BigInt(MAX_SKEW_MS) ? [] : [{ name, timeMs }];
  });
  if (!isSatisfied(policy, new Set(cosignatures.map(({ name }) => name)))) {
    throw new SignatureError(
      `cosignatures are no quorum: \`${cosignatures.length}\` of \`${policy.witnesses.length}\` witnesses count`,
    );
  }
  return cosignatures;
}

// -- what the reader pins --

/** What the reader trusts. Get all of it on another way than with the proof. */
export interface Trust {
  /** The ledger's name in its checkpoints. */
  readonly origin: string;
  /** The log's key, as C2SP vkey text or parsed. */
  readonly logKey: string | Verifier;
  /** A C2SP tlog-policy: witnesses of whom a quorum must have cosigned. Default: no witness need have. */
  readonly policy?: Uint8Array | Policy;
  /** The reader's clock, in ms since 1970. The seal may not be ahead of it. Default: no time is compared. */
  readonly now?: number;
  /** With `policy` and `now`: how old a cosignature may be to count. Default: any age. */
  readonly maxAgeMs?: number;
}

/** The same, parsed. */
export interface ReadTrust {
  readonly origin: string;
  readonly log: Verifier;
  readonly policy: Policy | null;
  readonly nowMs: number | null;
  readonly maxAgeMs: number | null;
}

/** Parse what the reader trusts.
 *
 * @throws {TypeError} a key or policy is malformed, or an age is given without the clock. That is the caller's error,
 * and no verdict on the evidence.
 */
export function readTrust({ origin, logKey, policy, now, maxAgeMs }: Trust): ReadTrust {
  if (maxAgeMs !== undefined && now === undefined) throw new TypeError("maxAgeMs is given without now");
  return {
    origin,
    log: typeof logKey === "string" ? pinned(() => parseVkey(logKey), "log key") : logKey,
    policy: policy instanceof Uint8Array ? pinned(() => parsePolicy(policy), "policy") : (policy ?? null),
    nowMs: now ?? null,
    maxAgeMs: maxAgeMs ?? null,
  };
}

function pinned<T>(parse: () => T, what: string): T {
  try {
    return parse();
  } catch (error) {
    if (error instanceof MalformedError) throw new TypeError(`${what} is malformed: ${error.message}`);
    throw error;
  }
}

/** Verify the witnesses and the time of a checkpoint that proves a leaf of *leafTimeMs*; return who cosigned.
 *
 * @throws {SignatureError} no quorum of the reader's policy cosigned it in time.
 * @throws {ProofError} the leaf is ahead of the reader's clock.
 */
export function verifyWitnessed(checkpoint: Uint8Array, leafTimeMs: bigint, trust: ReadTrust): Cosignature[] {
  const { log, policy, nowMs } = trust;
  if (nowMs !== null && leafTimeMs > BigInt(Math.floor(nowMs)) + BigInt(MAX_SKEW_MS)) {
    throw new ProofError("leaf is of a time that has not come yet");
  }
  return policy === null ? [] : verifyCosigned(checkpoint, policy, log, leafTimeMs, trust);
}

// -- the lines of a policy --

/** What the lines read so far define. */
class Parsing {
  readonly #logs: Verifier[] = [];
  readonly #witnesses: PolicyWitness[] = [];
  readonly #groups: PolicyGroup[] = [];
  readonly #quorums: string[] = [];
  readonly #names = new Set<string>();
  readonly #members = new Set<string>();
  readonly #keys = { log: new Set<string>(), witness: new Set<string>() };
  readonly #keyIds = new Set<string>();

  /** Read the items of one line. */
  read(items: readonly string[]): void {
    const [what, first, second, ...more] = items;
    if (what === "log" && first !== undefined && items.length <= 3) {
      const key = this.#key(first, [ED25519, MLDSA], this.#keys.log);
      if (key) this.#logs.push(key);
    } else if (what === "witness" && first !== undefined && second !== undefined && more.length <= 1) {
      this.#define(first);
      this.#witnesses.push({ name: first, key: this.#key(second, [COSIGNATURE, MLDSA], this.#keys.witness) });
    } else if (what === "group" && first !== undefined && second !== undefined && more.length) {
      this.#group(first, second, more);
    } else if (what === "quorum" && first !== undefined && items.length === 2) {
      if (first !== NONE && !this.#names.has(first)) throw new MalformedError(`quorum is not defined: \`${first}\``);
      this.#quorums.push(first);
    } else throw new MalformedError(`this is not a line of a policy: \`${what}\``);
  }

  finish(): Policy {
    const [quorum, ...more] = this.#quorums;
    if (quorum === undefined || more.length) throw new MalformedError("policy does not have exactly one quorum");
    const [logs, witnesses, groups] = [this.#logs, this.#witnesses, this.#groups];
    return { logs, witnesses, groups, quorum: quorum === NONE ? null : quorum };
  }

  #define(name: string): void {
    if (name === NONE || this.#names.has(name)) throw new MalformedError(`name is taken: \`${name}\``);
    this.#names.add(name);
  }

  #group(name: string, given: string, members: readonly string[]): void {
    for (const member of members) {
      if (!this.#names.has(member)) throw new MalformedError(`member is not defined: \`${member}\``);
      if (this.#members.has(member)) throw new MalformedError(`member is in a group already: \`${member}\``);
      this.#members.add(member);
    }
    const threshold = given === "all" ? members.length : given === "any" ? 1 : Number(given);
    const isNumber = given === "all" || given === "any" || /^[1-9][0-9]{0,3}$/.test(given);
    if (!isNumber || threshold > members.length) {
      throw new MalformedError(`threshold is not \`any\`, \`all\` or 1 to ${members.length}: \`${given}\``);
    }
    this.#define(name);
    this.#groups.push({ name, threshold, members });
  }

  /** Check a vkey's form, type and ID, and that its key is new; return its verifier, null for type ML-DSA-44. */
  #key(vkey: string, kinds: readonly number[], known: Set<string>): Verifier | null {
    const [name, keyId, ...rest] = vkey.split("+");
    const keyed = decodeBase64(rest.join("+"));
    const kind = keyed[0];
    if (kind === undefined || !kinds.includes(kind) || keyed.length !== 1 + KEY_SIZES.get(kind)!) {
      throw new MalformedError("key is not of a type for this");
    }
    if (encodeHex(sha256(encodeText(`${name}\n`), keyed).subarray(0, 4)) !== keyId) {
      throw new MalformedError("verifier key has an ID that is not its own");
    }
    // INVARIANT: one key counts once, whatever names it goes by.
    const key = encodeHex(keyed.subarray(1));
    if (known.has(key)) throw new MalformedError("key is named already");
    known.add(key);
    // If two keys had one name and ID, a signature line could be by either of them.
    const nameAndId = `${name}+${keyId}`;
    if (this.#keyIds.has(nameAndId)) throw new MalformedError("key has the name and ID of another");
    this.#keyIds.add(nameAndId);
    return kind === MLDSA ? null : parseVkey(vkey);
  }
}
