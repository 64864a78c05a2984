/** Other people's vectors: transparency-dev/merkle for the tree, filippo.io/torchwood/mpt for the map. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { MalformedError } from "../src/errors.js";
import { verifyConsistency, verifyInclusion } from "../src/merkle.js";
import { verifyAbsence, verifyPresence } from "../src/patricia.js";
import { bytes, hex, listShared, readShared, refuses, withoutShared } from "./vectors.js";

/** The one vector that accepts roots of 12 bytes. A hash is 32, or two different pairs could join alike. */
const CARELESS = "sizes-are-equal-one-and-proof-is-empty.json";

interface TreeVector {
  readonly leafIdx: number;
  readonly treeSize: number;
  readonly leafHash: string;
  readonly root: string;
  readonly size1: number;
  readonly size2: number;
  readonly root1: string;
  readonly root2: string;
  readonly proof: string[] | null;
  readonly wantErr: boolean;
}

/** A hash of a vector; some have none at all, which is no hash. */
function hash(text: string | null): Uint8Array {
  return bytes(text ?? "");
}

function readTree(folder: string): [name: string, vector: TreeVector][] {
  return listShared("merkle", folder).map((name) => [name, JSON.parse(readShared(name)) as TreeVector]);
}

test("inclusion as in transparency-dev/merkle", { skip: withoutShared }, () => {
  const vectors = readTree("inclusion");
  assert.ok(vectors.length > 90, `${vectors.length} vectors`);
  for (const [name, { leafIdx, treeSize, leafHash, root, proof, wantErr }] of vectors) {
    const refused = refuses(() =>
      verifyInclusion((proof ?? []).map(hash), {
        index: BigInt(leafIdx),
        size: BigInt(treeSize),
        leafHash: hash(leafHash),
        root: hash(root),
      }),
    );
    assert.equal(refused, wantErr, name);
  }
});

test("consistency as in transparency-dev/merkle", { skip: withoutShared }, () => {
  const vectors = readTree("consistency");
  assert.ok(vectors.length > 90, `${vectors.length} vectors`);
  for (const [name, { size1, size2, root1, root2, proof, wantErr }] of vectors) {
    const roots = { root1: hash(root1), root2: hash(root2) };
    const verify = (change: object = {}): void =>
      verifyConsistency((proof ?? []).map(hash), { size1: BigInt(size1), size2: BigInt(size2), ...roots, ...change });
    if (name.endsWith(CARELESS)) {
      assert.throws(() => verify(), MalformedError);
      verify({ root1: new Uint8Array(32), root2: new Uint8Array(32) });
    } else {
      assert.equal(refuses(() => verify()), wantErr, name);
    }
  }
});

test("presence and absence as in torchwood/mpt", { skip: withoutShared }, () => {
  const cases = readShared("mpt", "verify.txt").split("\n\n");
  let count = 0;
  for (const text of cases) {
    const fields = new Map(
      text
        .split("\n")
        .filter((line) => line && !line.startsWith("#"))
        .map((line) => line.split(" ", 2) as [string, string]),
    );
    const [snap, key, val, proof, verify] = ["snap", "key", "val", "proof", "verify"].map((name) => fields.get(name));
    if (snap === undefined) continue;
    const [root, path] = [hex(snap), proof === "''" ? new Uint8Array() : hex(proof!)];
    const refused = refuses(() =>
      val === "-" ? verifyAbsence(root, hex(key!), path) : verifyPresence(root, hex(key!), hex(val!), path),
    );
    assert.equal(refused, verify === "false", text);
    count += 1;
  }
  assert.equal(count, 21);
});
