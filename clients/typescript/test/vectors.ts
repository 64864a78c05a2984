/** Read the vectors that our Python verifier settled, and those of other people; say where they are missing. */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { MalformedError, VerificationError } from "../src/errors.js";
import { errorClass } from "../src/report.js";

/** One piece of evidence, what it is verified under, and what a verifier must say. */
export interface Vector {
  readonly kind: string;
  readonly name: string;
  readonly want: string;
  readonly content: string;
  readonly under: Readonly<Record<string, unknown>>;
}

/** Where `tests/test_interop_typescript.py` wrote vectors. */
const WRITTEN = process.env["CONSENTD_VECTORS"];
/** Where other people's lie. */
const SHARED = process.env["CONSENTD_SHARED_VECTORS"] ?? "../../../shared/vectors";

/** Read the vectors of these kinds. */
export function readVectors(...kinds: string[]): Vector[] {
  if (WRITTEN === undefined) return [];
  const lines = readFileSync(join(WRITTEN, "vectors.jsonl"), "utf8").trimEnd().split("\n");
  return lines.map((line) => JSON.parse(line) as Vector).filter(({ kind }) => kinds.includes(kind));
}

/** Why tests of vectors are skipped; false where they are not. */
export const withoutVectors: string | false =
  WRITTEN === undefined && "CONSENTD_VECTORS is not set: tests/test_interop_typescript.py writes them";

/** Why tests of other people's vectors are skipped; false where they are not. */
export const withoutShared: string | false = !existsSync(SHARED) && `no shared vectors at ${SHARED}`;

/** Read a file of other people's vectors. */
export function readShared(...path: string[]): string {
  return readFileSync(join(SHARED, ...path), "utf8");
}

/** List the JSON files below a folder of other people's vectors. */
export function listShared(...path: string[]): string[] {
  return readdirSync(join(SHARED, ...path), { withFileTypes: true }).flatMap((file) => {
    const inner = [...path, file.name];
    if (file.isDirectory()) return listShared(...inner);
    return file.name.endsWith(".json") ? [join(...inner)] : [];
  });
}

/** Return the verdict of a verification, as vectors name it. A verification returns false for "undetermined".
 * Any error but a `VerificationError` is a bug, and is thrown again. */
export function verdict(verify: () => unknown): string {
  try {
    return verify() === false ? "undetermined" : "ok";
  } catch (error) {
    if (error instanceof VerificationError) return errorClass(error);
    throw error;
  }
}

/** Tell whether a verification refuses its evidence. */
export function refuses(verify: () => unknown): boolean {
  return verdict(verify) !== "ok";
}

/** Decode base64 as Node does; no code of ours is to check itself. */
export function bytes(base64: unknown): Uint8Array {
  if (typeof base64 !== "string") throw new MalformedError("vector has no base64");
  return Uint8Array.from(Buffer.from(base64, "base64"));
}

/** Decode hexadecimal as Node does. */
export function hex(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text, "hex"));
}
