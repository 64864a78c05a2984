/** The reader's policy: witnesses, quorum, freshness; and options that cannot be. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { ed25519 } from "@noble/curves/ed25519.js";

import { concat, encodeBase64, encodeHex, encodeText, encodeU64 } from "../src/bytes.js";
import { decodeLeaf, type Event, type Seal } from "../src/codec.js";
import { ProofError, SignatureError, UnknownKeyError } from "../src/errors.js";
import { type HistoryProof, verifyChain } from "../src/history.js";
import { ValidKeys, verifyAuthors } from "../src/key_validity.js";
import { COSIGNATURE, formatVkey, openNote, parseVkey, Verifier } from "../src/note.js";
import { parsePolicy, type Trust } from "../src/quorum.js";
import { verifyHistory, verifyReceipt } from "../src/verify.js";
import { ORIGIN, PERSON, proof, RECEIPT, text, TRUST, value, VKEY } from "./example.js";

/** Half a minute after the seal. */
const NOW_S = 1_760_000_040n;
const NOW_MS = Number(NOW_S) * 1000;
const SEAL = decodeLeaf(proof.seal) as Seal;
const CHECKPOINT = text("checkpoint");

class Witness {
  readonly #seed: Uint8Array;
  readonly verifier: Verifier;
  readonly vkey: string;

  constructor(name: string, fill: number) {
    this.#seed = new Uint8Array(32).fill(fill);
    this.verifier = new Verifier(name, ed25519.getPublicKey(this.#seed), COSIGNATURE);
    this.vkey = formatVkey(this.verifier);
  }

  /** Return the line with which it cosigns the example's checkpoint. */
  line(timeS: bigint): string {
    const body = CHECKPOINT.slice(0, CHECKPOINT.indexOf("\n\n") + 1);
    const signed = ed25519.sign(encodeText(`cosignature/v1\ntime ${timeS}\n${body}`), this.#seed);
    const id = new Uint8Array(4);
    new DataView(id.buffer).setUint32(0, this.verifier.keyId);
    return `— ${this.verifier.name} ${encodeBase64(concat(id, encodeU64(timeS), signed))}\n`;
  }
}

const ONE = new Witness("witness.example/1", 0x31);
const TWO = new Witness("witness.example/2", 0x32);
const LINES = `witness one ${ONE.vkey}\nwitness two ${TWO.vkey}\n`;

/** Return a policy of both witnesses, of whom so many must have cosigned. */
function of(quorum: 0 | 1 | 2): Uint8Array {
  return encodeText(quorum ? `${LINES}group both ${quorum} one two\nquorum both\n` : `${LINES}quorum none\n`);
}

function cosigned(...lines: string[]): HistoryProof {
  return { ...proof, checkpoint: encodeText(CHECKPOINT + lines.join("")) };
}

function times(evidence: HistoryProof, trust: Partial<Trust>): [string, number][] {
  const { cosignatures } = verifyHistory(evidence, { ...TRUST, ...trust });
  return cosignatures.map(({ name, timeMs }) => [name, timeMs / 1000]);
}

test("a quorum of witnesses", () => {
  const now = Number(NOW_S);
  const one = cosigned(ONE.line(NOW_S));
  const both = cosigned(ONE.line(NOW_S), TWO.line(NOW_S - 5n));
  assert.deepEqual(times(both, {}), []);
  assert.deepEqual(times(both, { policy: of(2), now: NOW_MS }), [
    ["one", now],
    ["two", now - 5],
  ]);
  assert.deepEqual(times(one, { policy: of(1) }), [["one", now]]);
  assert.deepEqual(times(one, { policy: parsePolicy(of(1)) }), [["one", now]]);
  assert.throws(() => times(one, { policy: of(2) }), SignatureError);
  assert.throws(() => times(proof, { policy: of(1) }), SignatureError);
  assert.deepEqual(times(proof, { policy: of(0) }), []);
});

test("one witness counts once", () => {
  const twice = cosigned(ONE.line(NOW_S), ONE.line(NOW_S - 1n));
  assert.throws(() => times(twice, { policy: of(2) }), SignatureError);
  const alike = encodeText(`witness one ${ONE.vkey}\nwitness two ${ONE.vkey}\ngroup g all one two\nquorum g\n`);
  assert.throws(() => times(twice, { policy: alike }), TypeError);
  assert.deepEqual(times(cosigned(ONE.line(NOW_S - 9n), ONE.line(NOW_S)), { policy: of(0) }), [["one", Number(NOW_S)]]);
});

test("a wrong cosignature of a known witness refuses the checkpoint, a stranger's does not", () => {
  const wrong = cosigned(ONE.line(NOW_S).replace(/([A-Za-z])(.)=\n$/, (_, a, b) => `${a === "A" ? "B" : "A"}${b}=\n`));
  assert.deepEqual(times(wrong, { policy: encodeText(`witness two ${TWO.vkey}\nquorum none\n`) }), []);
  assert.throws(() => times(wrong, { policy: of(0) }), SignatureError);
});

test("how old a cosignature may be", () => {
  const trust = { policy: of(1), maxAgeMs: 300_000 };
  const line = cosigned(ONE.line(NOW_S));
  for (const [seconds, holds] of [[300, true], [300.999, true], [301, false], [-60, true], [-61, false]] as const) {
    const verify = (): unknown => times(line, { ...trust, now: NOW_MS + seconds * 1000 });
    if (holds) verify();
    else assert.throws(verify, seconds > 0 ? SignatureError : Error, `${seconds}`);
  }
  times(line, { ...trust, now: NOW_MS + 3_600_000, maxAgeMs: 3_600_000 });
  times(line, { policy: of(1), now: NOW_MS + 1e12 });
});

test("a cosignature from before the seal covers something else", () => {
  const seal = 1_760_000_009_200n; // ms
  times(cosigned(ONE.line((seal - 59_200n) / 1000n)), { policy: of(1) });
  assert.throws(() => times(cosigned(ONE.line((seal - 60_200n) / 1000n)), { policy: of(1) }), SignatureError);
});

test("a seal from the future", () => {
  times(proof, { now: 1_760_000_009_200 - 60_000 });
  assert.throws(() => times(proof, { now: 1_760_000_009_200 - 60_001 }), ProofError);
});

test("a quorum for a receipt", () => {
  const receipt = encodeText(new TextDecoder().decode(RECEIPT) + ONE.line(NOW_S));
  const trust = { ...TRUST, policy: of(1), now: NOW_MS, maxAgeMs: 300_000 };
  assert.equal(verifyReceipt(receipt, value("leaf 8"), trust).cosignatures.length, 1);
  assert.throws(() => verifyReceipt(RECEIPT, value("leaf 8"), trust), SignatureError);
});

test("options that cannot be are the caller's mistake, and no verdict", () => {
  for (const trust of [
    { logKey: "x" },
    { logKey: `${VKEY}x` },
    { policy: encodeText("x") },
    { policy: encodeText("quorum none") },
    { policy: encodeText(`witness w ${VKEY}\nquorum w\n`) },
    { maxAgeMs: 300_000 },
  ]) {
    assert.throws(() => times(proof, trust), TypeError, JSON.stringify(trust));
  }
});

test("a key that an entry may have put in force which could not be read", () => {
  const [person, ledger] = proof.chains;
  const keys = new ValidKeys();
  const entries = verifyChain(person!, SEAL);
  assert.throws(() => verifyAuthors(entries, ORIGIN, keys), { name: "SignatureError" });
  keys.isWhole = false;
  assert.throws(() => verifyAuthors(entries, ORIGIN, keys), UnknownKeyError);
  keys.apply(ledger!, [{ key: value("statement key"), timeMs: 0n, retired: false }]);
  keys.apply(person!, [{ key: value("key of the person"), timeMs: 0n, retired: false }]);
  assert.equal(verifyAuthors(entries, ORIGIN, keys).length, 4);
});

test("a person's key is good for that person's chain only", () => {
  const key = value("key of the person");
  const event = decodeLeaf(value("leaf 8")) as Event;
  for (const [tag, publicName, holds] of [
    [PERSON, "", true],
    [new Uint8Array(32), "", false],
    [new Uint8Array(32), "notice/x", false],
    [PERSON, "participant/x", false],
    [PERSON, "ledger", true],
  ] as const) {
    const keys = new ValidKeys();
    keys.apply({ tag, publicName }, [{ key, timeMs: 0n, retired: false }]);
    assert.equal(keys.find(key, event, { giver: "", publisher: "", authority: 0n }) !== undefined, holds, publicName);
  }
});

test("the last empty line of a note separates", () => {
  const seed = new Uint8Array(32).fill(1);
  const body = "one\n\n— not a signature\n\ntwo\n";
  const log = parseVkey(VKEY);
  const id = new Uint8Array(4);
  new DataView(id.buffer).setUint32(0, log.keyId);
  const line = `— ${log.name} ${encodeBase64(concat(id, ed25519.sign(encodeText(body), seed)))}\n`;
  assert.equal(openNote(encodeText(`${body}\n${line}`), [log]).text, body);
});

test("two keys of the same name and ID are refused", () => {
  const note = encodeText(CHECKPOINT);
  const log = TRUST.logKey;
  const impostor = new Verifier(ORIGIN, ed25519.getPublicKey(new Uint8Array(32).fill(7)));
  Object.defineProperty(impostor, "keyId", { value: Number.parseInt(log.split("+")[1]!, 16) });
  const real = new Verifier(ORIGIN, ed25519.getPublicKey(new Uint8Array(32).fill(1)));
  assert.equal(formatVkey(real), log);
  assert.throws(() => openNote(note, [real, impostor]), SignatureError);
  assert.equal(openNote(note, [real, real]).verified.length, 1);
  assert.equal(encodeHex(real.publicKey).length, 64);
});
