/**
 * Say which logs and witnesses count: read a trust policy, and hold a checkpoint against it (C2SP tlog-policy).
 *
 *     log <vkey> [<url>]
 *     witness <name> <vkey> [<url>]
 *     group <name> <k|any|all> <name>...
 *     quorum <name|none>
 *
 * Names are the file's own; a group and the quorum name what stands on lines before them, and each name is a member of
 * one group at most, so that no witness counts twice. Items are parted by spaces and tabs, `#` at the beginning of a
 * line makes it a comment. Keys of ML-DSA-44 stand in a policy, and nothing of theirs counts here.
 */

import { decodeBase64, decodeText, encodeHex, encodeText, sha256 } from "./bytes.js";
import { parseCheckpoint } from "./checkpoint.js";
import { MalformedError, ProofError, SignatureError } from "./errors.js";
import { COSIGNATURE, ED25519, isBy, openNote, parseVkey, timeOf, type Verifier } from "./note.js";

const MLDSA = 0x06;
const KEY_SIZES: ReadonlyMap<number, number> = new Map([
  [ED25519, 32],
  [COSIGNATURE, 32],
  [MLDSA, 1312],
]);
const MAX_LINES = 1024;
const NONE = "none";
const FOREIGN = /[^\t\n\x20-\x7e\x80-\u{10ffff}]/u;

/** A witness that counts, by the policy's own name for it; `key` is null where there is no code for its type. */
export interface PolicyWitness {
  readonly name: string;
  readonly key: Verifier | null;
}

/** Members, of which `threshold` must have witnessed a checkpoint for the group to have. */
export interface PolicyGroup {
  readonly name: string;
  readonly threshold: number;
  readonly members: readonly string[];
}

/** A trust policy. Groups stand after their members; `quorum` null asks for no cosignature. */
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
      parsing.take(bare.split(/[ \t]+/));
    } catch (error) {
      if (error instanceof MalformedError) throw new MalformedError(`policy line ${number + 1}: ${error.message}`);
      throw error;
    }
  });
  return parsing.finish();
}

/** Tell whether these witnesses, whose cosignatures verified, are a quorum. */
export function isSatisfied({ witnesses, groups, quorum }: Policy, cosigners: ReadonlySet<string>): boolean {
  if (quorum === null) return true;
  const witnessed = new Set(witnesses.map(({ name }) => name).filter((name) => cosigners.has(name)));
  // Members stand before their group, so one pass sees each group's members decided.
  for (const { name, threshold, members } of groups) {
    if (members.filter((member) => witnessed.has(member)).length >= threshold) witnessed.add(name);
  }
  return witnessed.has(quorum);
}

/** Verify that a checkpoint is the log's and that a quorum of the policy cosigned it, whenever that was; return who did.
 *
 * @throws {MalformedError} it is not a checkpoint note.
 * @throws {SignatureError} a signature by a known key is wrong, no known log signed, or those who cosigned are no quorum.
 * @throws {ProofError} it is signed by a log whose name is not its origin.
 */
export function verifyCosigned(checkpoint: Uint8Array, policy: Policy, log: Verifier): Cosignature[] {
  const logs = policy.logs.some((one) => one.equals(log)) ? policy.logs : [...policy.logs, log];
  const witnesses = policy.witnesses.flatMap(({ name, key }) => (key === null ? [] : [{ name, key }]));
  const opened = openNote(checkpoint, [...logs, ...witnesses.map(({ key }) => key)]);
  const signed = logs.filter((one) => opened.verified.some((line) => isBy(line, one)));
  if (!signed.length) throw new SignatureError("checkpoint is signed by no log of the policy");
  const { origin } = parseCheckpoint(opened.text);
  if (!signed.some(({ name }) => name === origin)) throw new ProofError("checkpoint is of another origin");
  const cosignatures = witnesses.flatMap(({ name, key }) => {
    const times = opened.verified.filter((line) => isBy(line, key)).map(({ signature }) => timeOf(signature));
    return times.length ? [{ name, timeMs: Number(times.reduce((a, b) => (a > b ? a : b)) * 1000n) }] : [];
  });
  if (!isSatisfied(policy, new Set(cosignatures.map(({ name }) => name)))) {
    throw new SignatureError(`cosignatures are no quorum: \`${cosignatures.length}\` of \`${policy.witnesses.length}\``);
  }
  return cosignatures;
}

/** What the lines so far have defined. */
class Parsing {
  readonly #logs: Verifier[] = [];
  readonly #witnesses: PolicyWitness[] = [];
  readonly #groups: PolicyGroup[] = [];
  readonly #quorums: string[] = [];
  readonly #names = new Set<string>();
  readonly #members = new Set<string>();
  readonly #keys = { log: new Set<string>(), witness: new Set<string>() };
  readonly #keyIds = new Set<string>();

  /** Take one line's items. */
  take(items: readonly string[]): void {
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
    } else throw new MalformedError(`this is no line of a policy: \`${what}\``);
  }

  finish(): Policy {
    const [quorum, ...more] = this.#quorums;
    if (quorum === undefined || more.length) throw new MalformedError("policy does not have exactly one quorum");
    return {
      logs: this.#logs,
      witnesses: this.#witnesses,
      groups: this.#groups,
      quorum: quorum === NONE ? null : quorum,
    };
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

  /** Check a vkey's form, type and ID, and that its key is new; return its verifier, if there is code for it. */
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
    // Of two keys with one name and ID nobody could tell which of them a signature line is by.
    const nameAndId = `${name}+${keyId}`;
    if (this.#keyIds.has(nameAndId)) throw new MalformedError("key has the name and ID of another");
    this.#keyIds.add(nameAndId);
    return kind === MLDSA ? null : parseVkey(vkey);
  }
}
