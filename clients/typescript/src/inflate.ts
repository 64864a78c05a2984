/**
 * Decompress DEFLATE (RFC 1951), strictly: exactly so many bytes in, exactly so many out, no code that is incomplete; and
 * compute the CRC-32 of what comes out.
 *
 * Written out here because a verifier is the same in Node and in browsers, and synchronous: Node's zlib is not in
 * browsers, and their `DecompressionStream` is asynchronous, and passes over what follows the end.
 */

import { MalformedError } from "./errors.js";

const MAX_BITS = 15;
const END = 256;
const LENGTH_BASE = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163,
  195, 227, 258];
const LENGTH_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCE_BASE = [1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049,
  3073, 4097, 6145, 8193, 12289, 16385, 24577];
const DISTANCE_BITS = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13,
  13];
/** In which order the lengths of the code of code lengths stand. */
const ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/** How much larger than its compressed form content can be at most, nearly: a run of 258 bytes takes two bits. */
const MAX_RATIO = 1032;
/** How far back a distance may reach, and no further. */
const WINDOW = 1 << 15;

/** What came of decompressing: the content, empty where it was not to be kept, and its CRC-32. */
export interface Inflated {
  readonly content: Uint8Array;
  readonly crc: number;
}

/** Decompress to exactly *size* bytes; without *isKept* only find out whether it does, in the memory of a window.
 *
 * @throws {MalformedError} it is not DEFLATE, ends early, or comes to another size, or more follows its end.
 */
export function inflate(compressed: Uint8Array, size: number, isKept = true): Inflated {
  // So that a few bytes cannot ask for gigabytes.
  if (size > compressed.length * MAX_RATIO) throw new MalformedError("compressed content cannot be as large as it says");
  const reader = new BitReader(compressed);
  const output = new Output(size, isKept);
  for (let isLast = false; !isLast; ) {
    isLast = reader.bits(1) === 1;
    const type = reader.bits(2);
    if (type === 0) for (const byte of reader.stored()) output.put(byte);
    else if (type === 1) inflateBlock(reader, FIXED, output);
    else if (type === 2) inflateBlock(reader, readCodes(reader), output);
    else throw new MalformedError("compressed content has a block of an unknown type");
  }
  reader.checkEnd();
  return output.finish();
}

/** Compute the CRC-32 of content (ISO 3309, as zip has it). */
export function crc32(content: Uint8Array): number {
  let crc = 0xffffffff;
  for (let i = 0; i < content.length; i++) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ content[i]!) & 0xff]!;
  return (crc ^ 0xffffffff) >>> 0;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

/** Takes what is decompressed: all of it, or, where it is not kept, as much as a distance can reach. */
class Output {
  readonly #bytes: Uint8Array;
  readonly #mask: number;
  #at = 0;
  #crc = 0xffffffff;

  constructor(
    readonly size: number,
    readonly isKept: boolean,
  ) {
    this.#bytes = new Uint8Array(isKept ? size : WINDOW);
    this.#mask = isKept ? -1 : WINDOW - 1;
  }

  put(byte: number): void {
    if (this.#at === this.size) throw new MalformedError("compressed content is larger than it says");
    this.#bytes[this.#at++ & this.#mask] = byte;
    this.#crc = (this.#crc >>> 8) ^ CRC_TABLE[(this.#crc ^ byte) & 0xff]!;
  }

  /** Repeat what stands *distance* back. Byte by byte: what is copied may be what was just written. */
  repeat(length: number, distance: number): void {
    if (distance > this.#at) throw new MalformedError("compressed content refers to before its beginning");
    for (let i = 0; i < length; i++) this.put(this.#bytes[(this.#at - distance) & this.#mask]!);
  }

  finish(): Inflated {
    if (this.#at !== this.size) throw new MalformedError("compressed content is smaller than it says");
    return { content: this.isKept ? this.#bytes : new Uint8Array(), crc: (this.#crc ^ 0xffffffff) >>> 0 };
  }
}

/** A prefix code: how many symbols have each length, and the symbols in the order of their codes. */
interface Code {
  readonly counts: Uint16Array;
  readonly symbols: Uint16Array;
}

interface Codes {
  readonly literals: Code;
  readonly distances: Code;
}

function inflateBlock(reader: BitReader, { literals, distances }: Codes, output: Output): void {
  for (;;) {
    const symbol = reader.symbol(literals);
    if (symbol === END) return;
    if (symbol < END) {
      output.put(symbol);
      continue;
    }
    const place = symbol - END - 1;
    if (place >= LENGTH_BASE.length) throw new MalformedError("compressed content has a length that is none");
    const length = LENGTH_BASE[place]! + reader.bits(LENGTH_BITS[place]!);
    const far = reader.symbol(distances);
    if (far >= DISTANCE_BASE.length) throw new MalformedError("compressed content has a distance that is none");
    output.repeat(length, DISTANCE_BASE[far]! + reader.bits(DISTANCE_BITS[far]!));
  }
}

/** Read the codes of a block that brings its own (RFC 1951 3.2.7). */
function readCodes(reader: BitReader): Codes {
  const [literalCount, distanceCount, lengthCount] = [reader.bits(5) + 257, reader.bits(5) + 1, reader.bits(4) + 4];
  if (literalCount > 286 || distanceCount > 30) throw new MalformedError("compressed content has too many codes");
  const lengthLengths = new Uint8Array(ORDER.length);
  for (let i = 0; i < lengthCount; i++) lengthLengths[ORDER[i]!] = reader.bits(3);
  const code = makeCode(lengthLengths, false);
  const lengths = new Uint8Array(literalCount + distanceCount);
  for (let at = 0; at < lengths.length; ) {
    const symbol = reader.symbol(code);
    if (symbol < 16) {
      lengths[at++] = symbol;
      continue;
    }
    if (symbol === 16 && at === 0) throw new MalformedError("compressed content repeats a length before the first");
    const value = symbol === 16 ? lengths[at - 1]! : 0;
    const times = symbol === 16 ? 3 + reader.bits(2) : symbol === 17 ? 3 + reader.bits(3) : 11 + reader.bits(7);
    if (times > lengths.length - at) throw new MalformedError("compressed content repeats a length too often");
    lengths.fill(value, at, at + times);
    at += times;
  }
  if (!lengths[END]) throw new MalformedError("compressed content has a block without an end");
  return {
    literals: makeCode(lengths.subarray(0, literalCount), true),
    distances: makeCode(lengths.subarray(literalCount), true),
  };
}

/** Make a prefix code of the lengths of its symbols' codes; *mayBeShort*: a code of one bit, or none, may be alone.
 *
 * @throws {MalformedError} the lengths are those of no prefix code, or of one that is incomplete.
 */
function makeCode(lengths: Uint8Array, mayBeShort: boolean): Code {
  const counts = new Uint16Array(MAX_BITS + 1);
  for (const length of lengths) counts[length]!++;
  const used = lengths.length - counts[0]!;
  counts[0] = 0;
  let left = 1;
  for (let length = 1; length <= MAX_BITS; length++) {
    left = 2 * left - counts[length]!;
    if (left < 0) throw new MalformedError("compressed content has more codes than there can be");
  }
  if (left > 0 && !(mayBeShort && (used === 0 || (used === 1 && counts[1] === 1)))) {
    throw new MalformedError("compressed content has an incomplete code");
  }
  const places = new Uint16Array(MAX_BITS + 2);
  for (let length = 1; length <= MAX_BITS; length++) places[length + 1] = places[length]! + counts[length]!;
  const symbols = new Uint16Array(used);
  lengths.forEach((length, symbol) => {
    if (length) symbols[places[length]!++] = symbol;
  });
  return { counts, symbols };
}

const fixed = new Uint8Array(288).fill(8, 0, 144).fill(9, 144, 256).fill(7, 256, 280).fill(8, 280);
const FIXED: Codes = {
  literals: makeCode(fixed, true),
  distances: makeCode(new Uint8Array(32).fill(5), true),
};

class BitReader {
  #at = 0;
  #held = 0;
  #count = 0;

  constructor(readonly bytes: Uint8Array) {}

  /** Take up to 13 bits, the lowest first. */
  bits(count: number): number {
    while (this.#count < count) this.#fill();
    const value = this.#held & ((1 << count) - 1);
    this.#held >>>= count;
    this.#count -= count;
    return value;
  }

  /** Take the symbol whose code comes next: of each length the codes are consecutive numbers (RFC 1951 3.2.2). */
  symbol({ counts, symbols }: Code): number {
    let [code, first, place] = [0, 0, 0];
    for (let length = 1; length <= MAX_BITS; length++) {
      if (!this.#count) this.#fill();
      code |= this.#held & 1;
      this.#held >>>= 1;
      this.#count--;
      const count = counts[length]!;
      if (code - first < count) return symbols[place + code - first]!;
      place += count;
      first = (first + count) << 1;
      code <<= 1;
    }
    throw new MalformedError("compressed content has a code that is none");
  }

  /** Take a stored block, from the next whole byte on. */
  stored(): Uint8Array {
    this.#held = this.#count = 0;
    const { bytes } = this;
    if (this.#at + 4 > bytes.length) throw endsEarly();
    const length = bytes[this.#at]! | (bytes[this.#at + 1]! << 8);
    const inverted = bytes[this.#at + 2]! | (bytes[this.#at + 3]! << 8);
    if (length !== (inverted ^ 0xffff)) throw new MalformedError("compressed content has a stored block of no length");
    const start = this.#at + 4;
    if (start + length > bytes.length) throw endsEarly();
    this.#at = start + length;
    return bytes.subarray(start, this.#at);
  }

  /** Check that nothing follows but the unused bits of the last byte. */
  checkEnd(): void {
    if (this.#at !== this.bytes.length) throw new MalformedError("compressed content has more behind its end");
  }

  #fill(): void {
    if (this.#at === this.bytes.length) throw endsEarly();
    this.#held |= this.bytes[this.#at++]! << this.#count;
    this.#count += 8;
  }
}

function endsEarly(): MalformedError {
  return new MalformedError("compressed content ends early");
}
