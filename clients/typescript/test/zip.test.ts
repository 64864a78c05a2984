/** The reader of zip files, held to Node's own zlib: what that decompresses, ours does, and nothing else. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { constants, deflateRawSync, inflateRawSync } from "node:zlib";

import { MalformedError } from "../src/errors.js";
import { inflate } from "../src/inflate.js";
import { unzip } from "../src/zip.js";

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

/** Contents of every sort: nothing, runs, text, noise, far repetitions, longer than a stored block. */
function contents(): Uint8Array[] {
  const next = numbers(7);
  const noise = Uint8Array.from({ length: 70_000 }, () => next());
  const text = new TextEncoder().encode(JSON.stringify({ leaf: "00ff".repeat(60), opening: null }).repeat(300));
  const few = noise.map((byte) => (byte % 7 ? 97 : byte));
  const far = new Uint8Array([...noise.subarray(0, 32_768), ...noise.subarray(0, 32_768)]);
  const runs = Uint8Array.from({ length: 66_000 }, (_, at) => at >> 9);
  return [new Uint8Array(), Uint8Array.of(0), new Uint8Array(100_000), noise, text, few, far, runs];
}

const STRATEGIES = [constants.Z_DEFAULT_STRATEGY, constants.Z_FIXED, constants.Z_HUFFMAN_ONLY, constants.Z_RLE];

function packings(content: Uint8Array): Uint8Array[] {
  return STRATEGIES.flatMap((strategy) =>
    [0, 1, 6, 9].map((level) => new Uint8Array(deflateRawSync(content, { level, strategy, memLevel: 1 + level % 9 }))),
  );
}

test("what zlib compresses is decompressed", () => {
  for (const content of contents()) {
    for (const packed of packings(content)) {
      const { content: unpacked, crc } = inflate(packed, content.length);
      assert.deepEqual(unpacked, content);
      const unkept = inflate(packed, content.length, false);
      assert.deepEqual(unkept, { content: new Uint8Array(), crc });
    }
  }
});

test("another size than it says, and what ends early or late", () => {
  for (const content of contents()) {
    for (const packed of packings(content)) {
      const refused = (bytes: Uint8Array, size: number): void => assert.throws(() => inflate(bytes, size), MalformedError);
      refused(packed, content.length + 1);
      if (content.length) refused(packed, content.length - 1);
      refused(packed.subarray(0, -1), content.length);
      refused(Uint8Array.of(...packed, 0), content.length);
    }
  }
});

test("a few bytes do not ask for much memory", () => {
  assert.throws(() => inflate(Uint8Array.of(3, 0), 2 ** 31 - 1), /as large as it says/);
});

/** What zlib makes of a stream, if it takes all of it and not more. */
function byZlib(packed: Uint8Array): Uint8Array | null {
  try {
    const { buffer, engine } = inflateRawSync(packed, { info: true, maxOutputLength: 1 << 20 }) as unknown as {
      buffer: Buffer;
      engine: { bytesWritten: number };
    };
    return engine.bytesWritten === packed.length ? new Uint8Array(buffer) : null;
  } catch {
    return null;
  }
}

test("damaged streams are refused where zlib refuses them, and read alike where it does not", () => {
  const next = numbers(11);
  const small = contents().map((content) => content.subarray(0, 600));
  const originals = small.flatMap(packings);
  let taken = 0;
  for (let i = 0; i < 40_000; i++) {
    const packed = originals[next() % originals.length]!.slice();
    for (let flips = next() % 3; flips >= 0; flips--) {
      // Headers of blocks stand in front: damage there tells most.
      const at = next() % Math.min(packed.length, next() % 2 ? 60 : packed.length);
      packed[at]! ^= 1 << next() % 8;
    }
    const want = byZlib(packed);
    if (want === null) {
      // Of what size zlib would have it, nobody knows: none may be right.
      for (const size of [0, 1, 600]) assert.throws(() => inflate(packed, size), MalformedError);
    } else {
      taken += 1;
      assert.deepEqual(inflate(packed, want.length).content, want);
    }
  }
  assert.ok(taken > 1_000, `${taken} were taken`);
});

test("any bytes are refused in order", () => {
  const next = numbers(13);
  for (let i = 0; i < 20_000; i++) {
    const bytes = Uint8Array.from({ length: next() % 40 }, () => next());
    const want = byZlib(bytes);
    if (want === null) assert.throws(() => inflate(bytes, next() % 50), MalformedError);
    else assert.deepEqual(inflate(bytes, want.length).content, want);
    assert.throws(() => unzip(bytes, new Set(["a"])), MalformedError);
  }
});

test("an empty zip file, in an array that begins elsewhere", () => {
  const bytes = new Uint8Array(40);
  bytes.set([0x50, 0x4b, 5, 6], 9);
  assert.equal(unzip(bytes.subarray(9, 31), new Set()).size, 0);
  assert.throws(() => unzip(bytes.subarray(8, 30), new Set()), MalformedError);
});
