/** Signatures of calls and statements: the example of proto/callers.md, and what the verifier says of a signature. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { concat, decodeHex, encodeHex, encodeText, encodeU64, sha256 } from "../src/bytes.js";
import { signedMessage } from "../src/codec.js";
import { verify } from "../src/ed25519.js";
import { SignatureError } from "../src/errors.js";
import { PersonKey } from "../src/sign.js";

const KEY = new PersonKey(Uint8Array.from({ length: 32 }, (_, i) => i));
const CALL = {
  origin: "consent.example.org/2025",
  method: "/consentd.v1.LedgerService/GetCheckpoint",
  timeMs: 1767225600000,
  message: new Uint8Array(0),
};
const STATEMENT = {
  origin: "consent.example.org/2025",
  kind: 2,
  tag: new Uint8Array(32).fill(7),
  ref: 3n,
  requestId: new Uint8Array(16).fill(9),
  timeMs: 1767225600000,
  payload: Uint8Array.of(1, 2, 3),
};

test("a call has the header that the example shows", () => {
  const page = readFileSync(new URL("../../../../proto/callers.md", import.meta.url), "utf-8");
  const [, shown] = /in hexadecimal:\n\n```\n([0-9a-f\n]+)```/.exec(page)!;
  assert.equal(encodeHex(KEY.signCall(CALL)), shown!.replaceAll("\n", ""));
});

test("each part of a call is signed", () => {
  const header = KEY.signCall(CALL);
  const signed = ({ origin, method, timeMs, message }: typeof CALL): Uint8Array =>
    concat(
      encodeText("consentd/call/v1\0"),
      sha256(encodeText(origin)),
      sha256(encodeText(method)),
      encodeU64(BigInt(timeMs)),
      sha256(message),
    );
  const signature = header.slice(73);
  verify(KEY.publicKey, signed(CALL), signature);
  for (const changed of [{ origin: "other" }, { method: "/a/B" }, { timeMs: 1 }, { message: Uint8Array.of(0) }]) {
    assert.throws(() => verify(KEY.publicKey, signed({ ...CALL, ...changed }), signature), SignatureError);
  }
});

test("a statement verifies as the verifier demands, in its chain alone", () => {
  const { key, signature, authorTimeMs, payload, ref } = KEY.signStatement(STATEMENT);
  assert.deepEqual(key, KEY.publicKey);
  const { origin, kind, tag, requestId } = STATEMENT;
  verify(key, signedMessage(origin, { kind, tag, ref }, { requestId, authorTimeMs, payload }), signature);
  const other = signedMessage(origin, { kind, tag: tag.map(() => 8), ref }, { requestId, authorTimeMs, payload });
  assert.throws(() => verify(key, other, signature), SignatureError);
});

test("a proof of possession is over ledger, owner and key", () => {
  const { origin } = CALL;
  const owner = sha256(encodeText("subject/mhid:MH-0001"));
  const signed = concat(encodeText("consentd/possession/v1\0"), sha256(encodeText(origin)), owner, KEY.publicKey);
  verify(KEY.publicKey, signed, KEY.provePossession(origin, { scheme: "mhid", value: "MH-0001" }));
});

test("what cannot be signed is an error of the caller", () => {
  assert.throws(() => new PersonKey(new Uint8Array(31)), TypeError);
  for (const timeMs of [-1, 1.5, Number.NaN, 2 ** 60]) {
    assert.throws(() => KEY.signCall({ ...CALL, timeMs }), TypeError);
    assert.throws(() => KEY.signStatement({ ...STATEMENT, timeMs }), TypeError);
  }
  const wrong = [{ tag: new Uint8Array(31) }, { requestId: new Uint8Array(15) }, { kind: 255 }, { kind: 0 }];
  for (const changed of wrong) assert.throws(() => KEY.signStatement({ ...STATEMENT, ...changed }), TypeError);
});

test("the secret key is not shown", () => {
  const seed = decodeHex("aa".repeat(32));
  const key = new PersonKey(seed);
  const before = encodeHex(key.signCall(CALL));
  seed.fill(0);
  assert.equal(encodeHex(key.signCall(CALL)), before);
  assert.ok(!JSON.stringify(key).includes("170"));
});
