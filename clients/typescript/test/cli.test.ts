/** The command line: its answers, its exit status, and that only it needs Node. */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";

import { heldJson, parseHeld } from "../src/held.js";
import { verifyHistory } from "../src/verify.js";
import { bundleParts, historyFile, PERSON, proof, RECEIPT, TRUST, value, VKEY, zip } from "./example.js";
import { bytes, readVectors, withoutVectors } from "./vectors.js";

const PERSON_HEX = Buffer.from(PERSON).toString("hex");
const directory = mkdtempSync(join(tmpdir(), "consentd-verify-"));
after(() => rmSync(directory, { recursive: true }));

function file(name: string, content: string | Uint8Array): string {
  const path = join(directory, name);
  writeFileSync(path, content);
  return path;
}

function run(args: string[], input: string | Uint8Array = ""): { status: number | null; stdout: string; stderr: string } {
  const done = spawnSync(process.execPath, ["dist/src/cli.js", ...args], { input, encoding: "utf8" });
  return { status: done.status, stdout: done.stdout, stderr: done.stderr };
}

const whole = file("history.json", historyFile(proof));
const trust = ["--log-key", VKEY];

test("a history that is proven", () => {
  const { status, stdout, stderr } = run(["history", whole, ...trust, "--tag", PERSON_HEX]);
  assert.equal(stderr, "");
  assert.equal(status, 0);
  const lines = stdout.split("\n");
  assert.match(lines[0]!, /^tag (aa){32} has these entries and no others in consent\.example\.org\/spec at tree/);
  assert.equal(lines[1], "    1  2025-10-09T08:53:27.000Z  ENROL       ledger");
  assert.equal(lines[3], "    3  2025-10-09T08:53:28.000Z  GRANT       the person");
  assert.equal(lines[4], "    4  2025-10-09T08:53:29.000Z  ACCESS      ledger ref 3");
  assert.ok(lines.includes("not proven:"));
});

test("a history from stdin, as JSON", () => {
  const { status, stdout } = run(["history", "-", ...trust, "--json"], historyFile(proof));
  assert.equal(status, 0);
  const answer = JSON.parse(stdout);
  assert.equal(answer.verdict, "proven");
  assert.deepEqual([answer.tag, answer.count, answer.tree_size], [PERSON_HEX, 4, 11]);
  assert.deepEqual(answer.entries.map((entry: { kind: string }) => entry.kind), ["ENROL", "KEY", "GRANT", "ACCESS"]);
  assert.equal(answer.not_proven.length, 5);
});

test("a history that is disproved", () => {
  const [person, ledger] = proof.chains;
  const fewer = { ...person!, count: 3n, entries: person!.entries.slice(0, 3) };
  const path = file("fewer.json", historyFile({ ...proof, chains: [fewer, ledger!] }));
  const { status, stdout, stderr } = run(["history", path, ...trust]);
  assert.deepEqual([status, stderr], [1, ""]);
  assert.equal(stdout, "disproved: map proof does not lead to the root hash\n");
  const asJson = run(["history", path, ...trust, "--json"]);
  assert.equal(asJson.status, 1);
  assert.deepEqual(JSON.parse(asJson.stdout), {
    verdict: "disproved",
    error: "proof",
    message: "map proof does not lead to the root hash",
  });
  for (const args of [["--tag", "00".repeat(32)], ["--origin", "other"], ["--public-name", "ledger"]]) {
    assert.equal(run(["history", whole, ...trust, ...args]).status, 1, args.join(" "));
  }
});

test("a receipt", () => {
  const [bundle, leaf] = [file("grant.tlog-proof", RECEIPT), file("grant.leaf", value("leaf 8"))];
  const { status, stdout } = run(["receipt", bundle, leaf, ...trust]);
  assert.equal(status, 0);
  assert.match(stdout, /^leaf 8 of consent\.example\.org\/spec is this one at tree size 11\nGRANT, seq 3 of tag aa/);
  assert.equal(JSON.parse(run(["receipt", bundle, leaf, ...trust, "--json"]).stdout).index, 8);
  assert.equal(run(["receipt", bundle, file("other.leaf", value("leaf 9")), ...trust]).status, 1);
  assert.equal(run(["receipt", leaf, bundle, ...trust]).status, 1);
});

test("an audit bundle", () => {
  const path = file("case.zip", zip(bundleParts()));
  const { status, stdout, stderr } = run(["bundle", path, ...trust]);
  assert.deepEqual([status, stderr], [0, ""]);
  assert.match(stdout, /^this stands in consent\.example\.org\/spec at tree size 11, sealed 2025/);
  assert.match(stdout, /^it says it is of tag (aa){32}: its chain is whole$/m);
  assert.match(stdout, /^tag (aa){32} has these entries and no others:$/m);
  const answer = JSON.parse(run(["bundle", "-", ...trust, "--json"], zip(bundleParts())).stdout);
  assert.deepEqual([answer.verdict, answer.scope], ["proven", { tag: PERSON_HEX }]);
  assert.deepEqual(answer.chains[0].entries.map((entry: { author: string }) => entry.author).slice(1, 3), [
    "ledger",
    "the person",
  ]);
  const parts = bundleParts();
  const chains = parts["chains.jsonl"]!.replace('"count":4', '"count":5');
  const changed = run(["bundle", file("changed.zip", zip({ ...parts, "chains.jsonl": chains })), ...trust, "--json"]);
  assert.deepEqual([changed.status, JSON.parse(changed.stdout).error], [1, "proof"]);
  assert.equal(run(["bundle", whole, ...trust]).status, 1);
  assert.equal(run(["bundle", path, ...trust, "--origin", "other"]).status, 1);
  const policy = file("policy", "quorum none\n");
  assert.equal(run(["bundle", path, ...trust, "--policy", policy]).status, 0);
});

test("what of a bundle could not be told", { skip: withoutVectors }, () => {
  const named = (name: string) => readVectors("bundle").find((one) => one.name === name)!;
  for (const [name, pattern] of [
    ["bundle: range with own key", /^could not tell whose key it was, for want of the person's chain: 1$/m],
    ["bundle: range with unknown kind", /^could not tell what kind 200 says, seq 4$/m],
  ] as const) {
    const { content, under } = named(name);
    const { status, stdout } = run(["bundle", file("untold.zip", bytes(content)), "--log-key", under["log_key"] as string]);
    assert.equal(status, 2, name);
    assert.match(stdout, pattern);
  }
  const { content, under } = named("bundle: range without statements");
  const { status, stdout } = run(["bundle", file("closed.zip", bytes(content)), "--log-key", under["log_key"] as string]);
  assert.equal(status, 0);
  assert.match(stdout, /^it says it is of the entries 8 to 14: they are all there$/m);
  assert.match(stdout, /^statements that are not in it: 6$/m);
});

test("what was kept is held against the next history", () => {
  const kept = join(directory, "kept");
  assert.equal(run(["history", whole, ...trust, "--tag", PERSON_HEX, "--keep", kept]).status, 0);
  const held = JSON.parse(readFileSync(kept, "utf8"));
  assert.deepEqual([held.count, held.tree_size, held.keys.length], ["4", "11", 1]);
  const [person, ledger] = proof.chains;
  const nothing = { ...proof, chains: [{ ...person!, firstSeq: 5n, entries: [] }, ledger!] };
  const news = file("news.json", historyFile(nothing));
  const { status, stdout } = run(["history", news, ...trust, "--held", kept]);
  assert.equal(status, 0);
  assert.match(stdout, /^\(those up to 4 were verified before\)$/m);
  assert.equal(run(["history", news, ...trust]).status, 1);
  const other = file("other", JSON.stringify({ ...held, root: held.head }));
  assert.equal(run(["history", news, ...trust, "--held", other]).status, 1);
  // A whole history, of the same tree; of a larger one, which the file cannot connect; of a smaller one.
  assert.equal(run(["history", whole, ...trust, "--held", kept]).status, 0);
  const smaller = file("smaller", JSON.stringify({ ...held, tree_size: "10" }));
  assert.equal(run(["history", whole, ...trust, "--held", smaller]).status, 2);
  const larger = file("larger", JSON.stringify({ ...held, tree_size: "12" }));
  assert.equal(run(["history", whole, ...trust, "--held", larger]).status, 1);
  assert.equal(run(["history", whole, ...trust, "--held", other]).status, 1);
  const evidence = verifyHistory(proof, TRUST);
  const { held: again, heldChain } = parseHeld(JSON.stringify(heldJson(evidence)));
  assert.deepEqual([again, heldChain], [evidence.held, evidence.heldChain]);
});

test("what could not be told", () => {
  const held = file("broken", "{}");
  for (const args of [
    [],
    ["history"],
    ["history", whole],
    ["receipt", whole, ...trust],
    ["history", whole, "--log-key", "x"],
    ["history", whole, ...trust, "--tag", "aa"],
    ["history", whole, ...trust, "--quorum", "1"],
    ["history", whole, ...trust, "--quorum", ""],
    ["history", whole, ...trust, "--held", held],
    ["history", whole, ...trust, "--unknown"],
    ["history", whole, ...trust, "--policy", held],
    ["receipt", whole, whole, ...trust, "--tag", PERSON_HEX],
    ["bundle", whole],
    ["bundle", whole, whole, ...trust],
    ["bundle", whole, ...trust, "--quorum", "1"],
    ["bundle", whole, ...trust, "--policy", held],
    ["bundle", whole, ...trust, "--policy", join(directory, "missing")],
    ["history", join(directory, "missing"), ...trust],
  ]) {
    const { status, stdout, stderr } = run(args);
    assert.deepEqual([status, stdout], [2, ""], args.join(" "));
    assert.match(stderr, /^could not tell: /, args.join(" "));
  }
});

test("help", () => {
  const { status, stdout } = run(["--help"]);
  assert.equal(status, 0);
  assert.match(stdout, /^usage: consentd-verify history FILE/);
  const readme = readFileSync("README.md", "utf8");
  assert.ok(readme.includes(stdout.trim()), "README.md shows the help as it is");
});

test("nothing but the command line needs Node, and nothing is imported that is not declared", () => {
  const declared = Object.keys(JSON.parse(readFileSync("package.json", "utf8")).dependencies);
  for (const name of readdirSync("src")) {
    const source = readFileSync(join("src", name), "utf8");
    for (const [, from] of source.matchAll(/from "([^"]+)"/g)) {
      const isOurs = from!.startsWith("./") || declared.some((each) => from!.startsWith(`${each}/`));
      assert.ok(isOurs || (name === "cli.ts" && from!.startsWith("node:")), `${name} imports ${from}`);
    }
    if (name !== "cli.ts") assert.doesNotMatch(source, /\b(Buffer|process)\b/, name);
  }
});
