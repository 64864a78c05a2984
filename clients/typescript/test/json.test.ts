/** The strict reader of JSON, compared with `JSON.parse`: it reads the same, or refuses. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { MalformedError } from "../src/errors.js";
import { parseEvidence } from "../src/evidence.js";
import { type JsonValue, parseJson } from "../src/json.js";
import { evidenceFile, proof } from "./example.js";

/** Numbers that look random and are the same in every run (xorshift32). */
function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

/** Return what `JSON.parse` would: objects instead of maps. */
function plain(value: JsonValue): unknown {
  if (value instanceof Map) return Object.fromEntries([...value].map(([name, child]) => [name, plain(child)]));
  return Array.isArray(value) ? value.map(plain) : value;
}

test("what is read is what JSON.parse reads", () => {
  for (const text of [
    "0",
    " [ ] ",
    "{}",
    '{"a":[1,{"b":null}],"c":"\\u00e9\\n\\"\\\\\\/","d":true,"e":false}',
    '{"__proto__":{"x":1},"constructor":"x","":0}',
    "[9007199254740991,\t0,\r\n10]",
    '"\\ud83d\\ude00 😀 한글 \u007f\u2028\ufeff"',
  ]) {
    const want = JSON.parse(text);
    // A map has no name that means something; of the object with `__proto__` only JSON.parse makes an own name.
    assert.equal(JSON.stringify(plain(parseJson(text, 8))), JSON.stringify(want), text);
  }
});

test("what is refused, though JSON.parse reads it", () => {
  for (const text of [
    '{"a":1,"a":1}',
    '{"a":1,"\\u0061":1}',
    "1.0",
    "1e0",
    "-0",
    "-1",
    "9007199254740992",
    '"\\ud800"',
    '"\\ude00\\ud83d"',
    '{"\\ud800":1}',
    `${"[".repeat(9)}${"]".repeat(9)}`,
  ]) {
    JSON.parse(text);
    assert.throws(() => parseJson(text, 8), MalformedError, text);
  }
});

test("nesting is refused before it can exhaust the stack", () => {
  for (const depth of [9, 1000, 5_000_000]) {
    for (const opening of ["[", '{"a":', '[{"a":']) {
      assert.throws(() => parseJson(opening.repeat(depth), 8), /nested deeper than 8 levels/, `${depth} ${opening}`);
    }
  }
});

test("a text without end is read once", () => {
  // A reader that starts again at each quote takes days for this.
  for (const tail of ["", "\\"]) {
    assert.throws(() => parseJson(`"${'\\"'.repeat(2_000_000)}${tail}`, 8), MalformedError);
  }
});

test("damaged texts: refused where JSON.parse refuses them, and read alike where it does not", () => {
  const next = numbers(11);
  const original = '{"a":[1,20,{"b":null,"c":"x\\u0041\\"y"}],"d":"한글","e":[true,false,[]]}';
  const signs = '{}[]":,\\u0019 \n\t-.eEtrufalsn한\u0000';
  let read = 0;
  for (let i = 0; i < 60_000; i++) {
    let text = original;
    for (let changes = next() % 3; changes >= 0; changes--) {
      const at = next() % text.length;
      text = text.slice(0, at) + (next() % 2 ? signs[next() % signs.length]! : "") + text.slice(at + (next() % 2));
    }
    let want: unknown;
    try {
      want = JSON.parse(text);
    } catch {
      assert.throws(() => parseJson(text, 8), MalformedError, text);
      continue;
    }
    try {
      assert.deepEqual(plain(parseJson(text, 8)), want, text);
      read += 1;
    } catch (error) {
      if (!(error instanceof MalformedError)) throw error;
    }
  }
  assert.ok(read > 5_000, `${read} were read`);
});

test("evidence is read from bytes, whatever lies around them", () => {
  const file = evidenceFile(proof);
  const around = new Uint8Array(file.length + 20);
  around.set(file, 9);
  assert.deepEqual(parseEvidence(around.subarray(9, 9 + file.length)), parseEvidence(file));
  assert.throws(() => parseEvidence(around), MalformedError);
  for (const changes of [{ more: 0 }, { format: "consentd/history/v1" }, { scope: {} }, { keys: [1] }]) {
    assert.throws(() => parseEvidence(evidenceFile(proof, changes)), MalformedError);
  }
});
