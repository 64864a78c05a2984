/** The tables of the wire reader, held to proto/consentd/v1/statement.proto: a field added there is missed here. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { decodeKeyStatement, decodeLedgerStatement, readAct, readAuthority } from "../src/payloads.js";

const PROTO = readFileSync("../../proto/consentd/v1/statement.proto", "utf8");
const KEY = new Uint8Array(32).fill(7);

interface Field {
  readonly type: string;
  readonly number: number;
}

/** Read the fields of a message from the proto file. */
function fieldsOf(message: string): Field[] {
  const [, body] = new RegExp(`^message ${message} \\{\\n(.*?)^\\}`, "ms").exec(PROTO) ?? [];
  assert.ok(body, message);
  return [...body.matchAll(/^ {2}((?:repeated )?\w+) \w+ = (\d+);$/gm)].map(([, type, number]) => ({
    type: type!,
    number: Number(number),
  }));
}

/** Write a field by hand, with some value of its type. */
function write({ type, number }: Field): number[] {
  if (["bool", "uint32", "uint64", "int64"].includes(type)) return [number * 8, 1];
  if (type === "RotationRole") return [number * 8, 2];
  if (/Authority(Capacity|Act|Reason)$|ReadScope$/.test(type)) return [number * 8, 1];
  if (type === "bytes") return [number * 8 + 2, KEY.length, ...KEY];
  if (type.endsWith("string")) return [number * 8 + 2, 1, 0x61];
  if (type === "Consent") return [number * 8 + 2, 0]; // of consent.proto; vectors have its fields
  const inner = fieldsOf(type.replace("repeated ", "")).flatMap(write);
  return [number * 8 + 2, inner.length, ...inner];
}

test("every field of KeyStatement is read", () => {
  const fields = fieldsOf("KeyStatement");
  assert.ok(fields.length >= 3);
  const expected = { key: KEY, retired: true, authority: 1n };
  assert.deepEqual(decodeKeyStatement(Uint8Array.from(fields.flatMap(write))), expected);
});

test("every field of LedgerStatement is read", () => {
  const fields = fieldsOf("LedgerStatement");
  assert.ok(fields.length >= 7);
  assert.deepEqual(decodeLedgerStatement(Uint8Array.from(fields.flatMap(write))), {
    origin: "a",
    verifierKeys: ["a"],
    statementKey: KEY,
    predecessor: KEY,
    retentionDays: 1,
    pruning: { keptFromMs: 1n, startSize: 1n },
    rotation: { role: 2, oldKey: KEY, newKey: KEY, fromSize: 1n, reason: "a", newSignature: KEY },
    isAlone: false,
  });
});

test("every field of AuthorityStatement is read", () => {
  const fields = fieldsOf("AuthorityStatement");
  assert.ok(fields.length >= 11);
  assert.deepEqual(readAuthority(Uint8Array.from(fields.flatMap(write))), {
    participantId: "a", key: KEY, isAgent: false, isComplete: false, endsAgents: false,
    acts: new Set([1n]), isMinor: true, birthDate: "a", startMs: 1n, endMs: 1n, ended: true,
  });
});

test("every field of the statements of representatives is read", () => {
  for (const [place, name] of ["Grant", "Amend", "Pause", "Resume", "Revoke"].entries()) {
    const fields = fieldsOf(`${name}Statement`);
    assert.ok(fields.length >= 3);
    const payload = Uint8Array.from(fields.flatMap(write));
    assert.deepEqual(readAct(8 + place, payload), { authoritySeq: 1n, attestedBy: "a" });
  }
  for (const [kind, name] of [[3, "Key"], [19, "Served"], [24, "Read"]] as const) {
    const payload = Uint8Array.from(fieldsOf(`${name}Statement`).flatMap(write));
    assert.deepEqual(readAct(kind, payload), { authoritySeq: 1n, attestedBy: "a" });
  }
});

test("a field that is not in the proto file is not passed over", () => {
  for (const number of [4, 11, 15]) {
    for (const wire of [0, 1, 2, 3, 4, 5, 6, 7]) {
      if (number === 4 && wire === 2) continue; // a LedgerStatement has it
      const more = Uint8Array.of(number * 8 + wire, 0, 0, 0, 0, 0, 0, 0, 0);
      assert.equal(decodeKeyStatement(more), null, `${number}, ${wire}`);
      assert.equal(decodeLedgerStatement(more), null, `${number}, ${wire}`);
    }
  }
});
