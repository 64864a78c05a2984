/**
 * Read JSON strictly, for formats that two programs must never understand differently.
 *
 * `JSON.parse` cannot be used: of a name that an object has twice it keeps the last value, it does not distinguish the
 * number 1.0 from 1, and it recurses as deep as its input. This reader refuses names that an object has twice, numbers
 * that are not integers from 0 to 2^53 - 1 in plain digits, halves of surrogate pairs, and nesting beyond a bound.
 */

import { MalformedError } from "./errors.js";

/** A value of JSON. Objects are maps, so that no name has a meaning of its own in JavaScript. */
export type JsonValue = string | number | boolean | null | readonly JsonValue[] | ReadonlyMap<string, JsonValue>;

const SPACES = /[ \t\n\r]*/y;
const DIGITS = /(?:0|[1-9][0-9]*)(?![0-9.eE+-])/y;
const HALF_OF_A_PAIR = /[\ud800-\udfff]/u;
const WORDS: readonly (readonly [string, boolean | null])[] = [["null", null], ["true", true], ["false", false]];

/** Parse a JSON text whose arrays and objects are nested at most *maxNesting* deep.
 *
 * *maxMarks* is the largest number of arrays, objects and commas, so that a text does not take many times its size.
 *
 * @throws {MalformedError} it is not JSON, or one of the things that this reader refuses.
 */
export function parseJson(text: string, maxNesting: number, maxMarks = Infinity): JsonValue {
  const reader = new Reader(text, maxNesting, maxMarks);
  const value = reader.value();
  reader.end();
  return value;
}

class Reader {
  #at = 0;
  #depth = 0;

  #marks = 0;

  constructor(readonly text: string, readonly maxNesting: number, readonly maxMarks: number) {}

  value(): JsonValue {
    this.#skipSpaces();
    const first = this.text[this.#at];
    if (first === "{") return this.#nested(() => this.#object());
    if (first === "[") return this.#nested(() => this.#array());
    if (first === '"') return this.#string();
    for (const [word, value] of WORDS) if (this.#skip(word)) return value;
    return this.#integer();
  }

  /** Check that nothing but spaces follows. */
  end(): void {
    this.#skipSpaces();
    if (this.#at < this.text.length) throw new MalformedError("JSON has something after its value");
  }

  #nested<T>(read: () => T): T {
    this.#depth += 1;
    if (this.#depth > this.maxNesting) throw new MalformedError(`JSON is nested deeper than ${this.maxNesting} levels`);
    this.#countMark();
    this.#at += 1;
    const value = read();
    this.#depth -= 1;
    return value;
  }

  #countMark(): void {
    this.#marks += 1;
    if (this.#marks > this.maxMarks) {
      throw new MalformedError(`JSON has more than ${this.maxMarks} lists, objects and commas`);
    }
  }

  #object(): ReadonlyMap<string, JsonValue> {
    const found = new Map<string, JsonValue>();
    this.#items("}", () => {
      if (this.text[this.#at] !== '"') throw new MalformedError("JSON object has a name that is not text");
      const name = this.#string();
      this.#skipSpaces();
      if (!this.#skip(":")) throw new MalformedError("JSON object has a name without a value");
      if (found.has(name)) throw new MalformedError("JSON object has a name twice");
      found.set(name, this.value());
    });
    return found;
  }

  #array(): readonly JsonValue[] {
    const found: JsonValue[] = [];
    this.#items("]", () => void found.push(this.value()));
    return found;
  }

  /** Read items between commas until the bracket that ends them. */
  #items(end: string, read: () => void): void {
    this.#skipSpaces();
    if (this.#skip(end)) return;
    for (;;) {
      this.#skipSpaces();
      read();
      this.#skipSpaces();
      if (!this.#skip(",")) break;
      this.#countMark();
    }
    if (!this.#skip(end)) throw new MalformedError("JSON has an array or object that does not end");
  }

  #string(): string {
    const start = this.#at;
    let end = start + 1;
    while (end < this.text.length && this.text[end] !== '"') end += this.text[end] === "\\" ? 2 : 1;
    this.#at = end + 1;
    let text: string;
    try {
      // One string without anything around it: `JSON.parse` decodes its escapes, and decides nothing else.
      text = JSON.parse(this.text.slice(start, this.#at)) as string;
    } catch {
      throw new MalformedError("JSON has text that does not end, or has a bad escape or a control character");
    }
    if (HALF_OF_A_PAIR.test(text)) throw new MalformedError("JSON has text with half of a surrogate pair");
    return text;
  }

  #integer(): number {
    DIGITS.lastIndex = this.#at;
    const [digits] = DIGITS.exec(this.text) ?? [];
    if (digits === undefined || !Number.isSafeInteger(Number(digits))) {
      throw new MalformedError("JSON has something that is no value, or a number that is no integer up to 2^53 - 1");
    }
    this.#at += digits.length;
    return Number(digits);
  }

  #skip(word: string): boolean {
    if (!this.text.startsWith(word, this.#at)) return false;
    this.#at += word.length;
    return true;
  }

  #skipSpaces(): void {
    SPACES.lastIndex = this.#at;
    this.#at += SPACES.exec(this.text)![0].length;
  }
}
