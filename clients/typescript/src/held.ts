/**
 * Format and parse the file in which a program keeps what it verified of a chain, until the chain's next history.
 */

import { decodeBase64, decodeHex, encodeBase64, encodeHex } from "./bytes.js";
import type { Held, HeldChain } from "./history.js";
import { LedgerKeys } from "./rotation.js";

/** A value that JSON can hold. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [name: string]: Json };

/** What a held file keeps between two histories of one chain. */
export interface HeldFile {
  readonly tag: Uint8Array;
  readonly held: Held;
  readonly heldChain: HeldChain;
}

/** Format what is kept until the next history, as JSON. */
export function heldJson({ tag, held, heldChain }: HeldFile): Json {
  return {
    tag: encodeHex(tag), tree_size: String(held.treeSize), root: encodeBase64(held.root),
    count: String(heldChain.count), head: encodeBase64(heldChain.head), erased: heldChain.erased,
    time_ms: String(heldChain.timeMs), lacks_statements: heldChain.lacksStatements,
    retention_days: heldChain.retentionDays,
    missing: heldChain.missing.map((range) => range.map(String)),
    recent: heldChain.recent.map(({ timeMs, key, requestId }) => {
      return { time_ms: String(timeMs), key: encodeBase64(key), request_id: encodeBase64(requestId) };
    }),
    keys: heldChain.keys.map(({ key, timeMs, retired, authority = 0n }) => {
      return { key: encodeBase64(key), time_ms: String(timeMs), retired, authority: String(authority) };
    }),
    named: heldChain.named.map(({ kind, seq, ref, timeMs, payload }) => {
      return { kind, seq: String(seq), ref: String(ref), time_ms: String(timeMs), payload: encodeBase64(payload) };
    }),
    unread_to: String(heldChain.unreadTo),
    ledger_keys: heldChain.ledgerKeys && ledgerKeysJson(heldChain.ledgerKeys),
  };
}

function ledgerKeysJson({ origin, named, logTerms, terms }: LedgerKeys): Json {
  return {
    origin, named,
    log: logTerms.map(({ fromSize, key, replaces }) => {
      return { from_size: String(fromSize), key: encodeBase64(key), replaces: encodeBase64(replaces) };
    }),
    statement: terms.map(({ key, first, end, inForce }) => {
      return { key: encodeBase64(key), first: String(first), end: String(end), in_force: inForce };
    }),
  };
}

function parseLedgerKeys(read: Record<string, unknown>, number: (value: unknown) => bigint): LedgerKeys {
  const rows = (name: string): Record<string, unknown>[] => read[name] as Record<string, unknown>[];
  const key = (one: Record<string, unknown>, name = "key"): Uint8Array => decodeBase64(one[name] as string);
  const log = rows("log").map((one) => {
    return { fromSize: number(one["from_size"]), key: key(one), replaces: key(one, "replaces") };
  });
  const terms = rows("statement").map((one) => {
    return { key: key(one), first: number(one["first"]), end: number(one["end"]), inForce: one["in_force"] === true };
  });
  return new LedgerKeys(read["origin"] as string, read["named"] as string[], log, terms);
}

/** Parse what was kept.
 *
 * @throws {TypeError} it is malformed. The file is the reader's own, so that is no verdict.
 */
export function parseHeld(text: string): HeldFile {
  try {
    const read = JSON.parse(text);
    const { tag, tree_size, root, count, head, erased, time_ms, retention_days, missing, keys } = read;
    const number = (value: unknown): bigint => {
      if (typeof value !== "string" || !/^[0-9]{1,20}$/.test(value)) throw new TypeError("not a decimal");
      return BigInt(value);
    };
    return {
      tag: decodeHex(tag), held: { treeSize: number(tree_size), root: decodeBase64(root) },
      heldChain: {
        count: number(count), head: decodeBase64(head), erased: erased === true,
        timeMs: number(time_ms),
        lacksStatements: read.lacks_statements === true,
        retentionDays: Number.isInteger(retention_days) ? retention_days : 0, // 0: no retention policy allows pruning
        recent: (read.recent as Record<string, unknown>[]).map((one) => ({
          timeMs: number(one["time_ms"]), tag: decodeHex(tag), key: decodeBase64(one["key"] as string),
          requestId: decodeBase64(one["request_id"] as string),
        })),
        missing: (missing ?? []).map(([first, last]: unknown[]) => [number(first), number(last)] as const),
        keys: (keys as Record<string, unknown>[]).map((one) => ({
          key: decodeBase64(one["key"] as string), timeMs: number(one["time_ms"]), retired: one["retired"] === true,
          authority: number(one["authority"]),
        })),
        named: (read.named as Record<string, unknown>[]).map((one) => ({
          kind: Number(number(String(one["kind"]))), seq: number(one["seq"]), ref: number(one["ref"]),
          timeMs: number(one["time_ms"]), payload: decodeBase64(one["payload"] as string),
        })),
        unreadTo: number(read.unread_to),
        ledgerKeys: read.ledger_keys === null ? null : parseLedgerKeys(read.ledger_keys, number),
      },
    };
  } catch (error) {
    throw new TypeError(`held file is malformed: ${error instanceof Error ? error.message : "unreadable"}`);
  }
}
