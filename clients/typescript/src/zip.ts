/**
 * Read a zip file, strictly: it is what its parts say, from the first byte to the last.
 *
 *     (local header, content)* , central directory, end record
 *
 * Without gaps, overlaps, comments, extra fields, encryption, data descriptors, ZIP64; each local header says what the
 * directory says; content is stored or deflated, and has the size and the CRC-32 that are said. What times and
 * attributes say is not looked at. So there is no second way to read it, whichever end a reader starts from.
 */

import { decodeText } from "./bytes.js";
import { MalformedError } from "./errors.js";
import { crc32, inflate } from "./inflate.js";

/** Most bytes, unpacked. */
export const MAX_UNPACKED = 2 ** 31 - 1;

/** How many times larger a file may be unpacked, beside `FREE`: a few bytes must not fill a reader's memory. */
const MAX_RATIO = 64;
const FREE = 2 ** 20;

const LOCAL_MARK = 0x04034b50;
const DIRECTORY_MARK = 0x02014b50;
const END_MARK = 0x06054b50;
const LOCAL_SIZE = 30;
const DIRECTORY_SIZE = 46;
const END_SIZE = 22;
const STORED = 0;
const DEFLATED = 8;
const MAX_VERSION = 20;
/** Version needed, flags, method, time, date, CRC-32, both sizes, length of the name: what both headers say. */
const SHARED_SIZE = 24;

interface Part {
  readonly name: string;
  readonly method: number;
  readonly crc: number;
  readonly packedSize: number;
  readonly size: number;
}

/** Unpack a zip file; return its contents by name.
 *
 * @param allowed names that it may have, each once.
 * @param unread of these, those that are checked and let go: they are in the answer without content.
 * @throws {MalformedError} it is not such a zip file, or is larger unpacked than `MAX_UNPACKED`.
 */
export function unzip(
  bytes: Uint8Array,
  allowed: ReadonlySet<string>,
  unread: ReadonlySet<string> = new Set(),
): Map<string, Uint8Array> {
  const end = bytes.length - END_SIZE;
  if (end < 0) throw new MalformedError("zip file is too short");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const u16 = (at: number): number => view.getUint16(at, true);
  const u32 = (at: number): number => view.getUint32(at, true);
  const count = u16(end + 10);
  const [directorySize, directoryAt] = [u32(end + 12), u32(end + 16)];
  if (u32(end) !== END_MARK || u32(end + 4) || u16(end + 8) !== count || u16(end + 20)) {
    throw new MalformedError("zip file does not end in its end record, or has a comment, or several parts");
  }
  if (directoryAt + directorySize !== end) throw new MalformedError("zip file has something beside its directory");

  const contents = new Map<string, Uint8Array>();
  let [at, local, unpacked] = [directoryAt, 0, 0];
  for (let i = 0; i < count; i++) {
    if (at + DIRECTORY_SIZE > end || u32(at) !== DIRECTORY_MARK) throw new MalformedError("zip directory is damaged");
    const nameSize = u16(at + 28);
    // Lengths of extra field and comment, and the number of the disk.
    if (u16(at + 30) || u16(at + 32) || u16(at + 34)) throw new MalformedError("zip directory has an extra field");
    if (at + DIRECTORY_SIZE + nameSize > end) throw new MalformedError("zip directory is damaged");
    const part = readPart(view, at + 6, bytes.subarray(at + DIRECTORY_SIZE, at + DIRECTORY_SIZE + nameSize));
    if (!allowed.has(part.name)) throw new MalformedError("zip file has a file that it should not have");
    if (contents.has(part.name)) throw new MalformedError(`zip file has a file twice: \`${part.name}\``);
    unpacked += part.size;
    const isKept = !unread.has(part.name);
    if (unpacked > MAX_UNPACKED || (isKept && part.size > FREE + MAX_RATIO * part.packedSize)) {
      throw new MalformedError("zip file is larger than can be, unpacked");
    }
    if (u32(at + 42) !== local) throw new MalformedError("zip file has a gap, or parts that overlap");
    const start = local + LOCAL_SIZE + nameSize;
    if (start + part.packedSize > directoryAt) throw new MalformedError("zip file has a part that ends late");
    const isSame =
      u32(local) === LOCAL_MARK &&
      u16(local + 28) === 0 &&
      same(bytes, local + 4, at + 6, SHARED_SIZE) &&
      same(bytes, local + LOCAL_SIZE, at + DIRECTORY_SIZE, nameSize);
    if (!isSame) throw new MalformedError("zip file has a part that says otherwise than its directory");
    contents.set(part.name, unpack(part, bytes.subarray(start, start + part.packedSize), isKept));
    at += DIRECTORY_SIZE + nameSize;
    local = start + part.packedSize;
  }
  if (at !== end || local !== directoryAt) throw new MalformedError("zip file has a gap, or more than its directory says");
  return contents;
}

function readPart(view: DataView, at: number, name: Uint8Array): Part {
  const [version, flags, method] = [0, 2, 4].map((offset) => view.getUint16(at + offset, true)) as [
    number,
    number,
    number,
  ];
  const [crc, packedSize, size] = [10, 14, 18].map((offset) => view.getUint32(at + offset, true)) as [
    number,
    number,
    number,
  ];
  if (version > MAX_VERSION || flags || (method !== STORED && method !== DEFLATED)) {
    throw new MalformedError("zip file needs more than a reader of stored and deflated files has");
  }
  return { name: decodeText(name, "name in a zip file"), method, crc, packedSize, size };
}

function unpack({ name, method, crc, packedSize, size }: Part, packed: Uint8Array, isKept: boolean): Uint8Array {
  if (method === STORED && packedSize !== size) throw new MalformedError(`zip file has a size twice: \`${name}\``);
  const unpacked =
    method === STORED
      ? { content: isKept ? packed.slice() : new Uint8Array(), crc: crc32(packed) }
      : inflate(packed, size, isKept);
  if (unpacked.crc !== crc) throw new MalformedError(`zip file has another checksum than its content: \`${name}\``);
  return unpacked.content;
}

function same(bytes: Uint8Array, a: number, b: number, length: number): boolean {
  for (let i = 0; i < length; i++) if (bytes[a + i] !== bytes[b + i]) return false;
  return true;
}
