/** The command line: its answers, its exit status, and that only it needs Node. */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";

import { heldJson, parseHeld } from "../src/held.js";
import { verifyHistory } from "../src/verify.js";
import { evidenceFile, PERSON, proof, RECEIPT, TRUST, value, VKEY } from "./example.js";
import { bytes, readVectors, withoutVectors } from "./vectors.js";

const PERSON_HEX = Buffer.from(PERSON).toString("hex");
const directory = mkdtempSync(join(tmpdir(), "consentd-verify-"));
after(() => rmSync(directory, { recursive: true }));

function file(name: string, content: string | Uint8Array): string {
  const path = join(directory, name);
  writeFileSync(path, content);
  return path;
}

interface Done {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function run(args: string[], input: string | Uint8Array = ""): Done {
  const done = spawnSync(process.execPath, ["dist/src/cli.js", ...args], { input, encoding: "utf8" });
  return { status: done.status, stdout: done.stdout, stderr: done.stderr };
}

const whole = file("history.json", evidenceFile(proof));
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
  const { status, stdout } = run(["history", "-", ...trust, "--json"], evidenceFile(proof));
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
  const path = file("fewer.json", evidenceFile({ ...proof, chains: [fewer, ledger!] }));
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
  assert.equal(run(["receipt", leaf, bundle, ...trust]).status, 2); // a file of another kind
  assert.equal(run(["receipt", file("half", RECEIPT.slice(0, 90)), leaf, ...trust]).status, 2);
});

test("a receipt as it is stored, full and reduced", () => {
  const hash = Buffer.from(value("leaf hash 8")).toString("hex");
  const stored = (more: object): string => {
    const proof = new TextDecoder().decode(RECEIPT);
    return file("grant.receipt", JSON.stringify({ index: 8, leaf_hash: hash, proof, replayed: false, ...more }));
  };
  const { status, stdout } = run(["receipt", stored({}), ...trust]);
  assert.equal(status, 0);
  assert.equal(stdout, `leaf 8 of consent.example.org/spec has this hash at tree size 11\n${hash}\n`);
  const shown = JSON.parse(run(["receipt", stored({}), ...trust, "--json"]).stdout);
  assert.deepEqual([shown.verdict, shown.index, shown.leaf_hash], ["proven", 8, hash]);
  const full = run(["receipt", stored({ leaf: Buffer.from(value("leaf 8")).toString("hex") }), ...trust]);
  assert.match(full.stdout, /GRANT, seq 3 of tag aa/);
  const other = Buffer.from(value("leaf 9")).toString("hex");
  for (const change of [{ index: 9 }, { leaf_hash: "00".repeat(32) }, { leaf: other }]) {
    assert.equal(run(["receipt", stored(change), ...trust]).status, 1, JSON.stringify(change));
  }
  const hashes = [{ leaf_hash: "0" }, { leaf_hash: "00" }];
  for (const change of [...hashes, { index: "8" }, { proof: "" }, { proof: 1 }, { leaf: 8 }]) {
    assert.equal(run(["receipt", stored(change), ...trust]).status, 2, JSON.stringify(change));
  }
});

test("evidence", () => {
  const { status, stdout, stderr } = run(["evidence", whole, ...trust]);
  assert.deepEqual([status, stderr], [0, ""]);
  assert.match(stdout, /^this is in consent\.example\.org\/spec at tree size 11, sealed 2025/);
  assert.match(stdout, /^it is of tag (aa){32}: its chain is whole$/m);
  assert.match(stdout, /^tag (aa){32} has these entries and no others:$/m);
  const answer = JSON.parse(run(["evidence", "-", ...trust, "--json"], evidenceFile(proof)).stdout);
  assert.deepEqual([answer.verdict, answer.scope], ["proven", { tag: PERSON_HEX }]);
  assert.deepEqual(answer.chains[0].entries.map((entry: { author: string }) => entry.author).slice(1, 3), [
    "ledger",
    "the person",
  ]);
  const [person, ledger] = proof.chains;
  const changed = file("changed.json", evidenceFile({ ...proof, chains: [{ ...person!, count: 5n }, ledger!] }));
  const refused = run(["evidence", changed, ...trust, "--json"]);
  assert.deepEqual([refused.status, JSON.parse(refused.stdout).error], [1, "proof"]);
  assert.equal(run(["evidence", whole, ...trust, "--origin", "other"]).status, 1);
  const half = file("half.json", evidenceFile(proof).slice(0, 2000));
  for (const command of ["evidence", "history"]) assert.equal(run([command, half, ...trust]).status, 2, command);
  assert.equal(run(["evidence", whole, ...trust, "--policy", file("policy", "quorum none\n")]).status, 0);
});

test("what of evidence is undetermined", { skip: withoutVectors }, () => {
  const named = (name: string) => readVectors("evidence").find((one) => one.name === name)!;
  for (const [name, pattern] of [
    ["evidence: range with own key", /^undetermined: who owns a key, .*: 1$/m],
    ["evidence: range with unknown kind", /^undetermined: what kind 200 states, seq 4$/m],
  ] as const) {
    const { content, under } = named(name);
    const path = file("undetermined.json", bytes(content));
    const { status, stdout } = run(["evidence", path, "--log-key", under["log_key"] as string]);
    assert.equal(status, 2, name);
    assert.match(stdout, pattern);
  }
  const { content, under } = named("evidence: range without statements");
  const path = file("closed.json", bytes(content));
  const { status, stdout } = run(["evidence", path, "--log-key", under["log_key"] as string]);
  assert.equal(status, 0);
  assert.match(stdout, /^it is of the entries 9 to 15: they are all there$/m);
  assert.match(stdout, /^statements that the file does not contain: 6$/m);
});

test("what was kept is held against the next history", () => {
  const kept = join(directory, "kept");
  assert.equal(run(["history", whole, ...trust, "--tag", PERSON_HEX, "--keep", kept]).status, 0);
  const held = JSON.parse(readFileSync(kept, "utf8"));
  assert.deepEqual([held.count, held.tree_size, held.keys.length], ["4", "11", 1]);
  const [person, ledger] = proof.chains;
  const nothing = { ...proof, chains: [{ ...person!, firstSeq: 5n, entries: [] }, ledger!] };
  const news = file("news.json", evidenceFile(nothing));
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

test("what is undetermined", () => {
  const held = file("broken", "{}");
  const none = file("none.policy", "quorum none\n");
  for (const args of [
    [],
    ["history"],
    ["history", whole],
    ["receipt", whole, ...trust],
    ["history", whole, "--log-key", "x"],
    ["history", whole, ...trust, "--tag", "aa"],
    ["history", whole, ...trust, "--max-age", "1"],
    ["history", whole, ...trust, "--max-age", "", "--policy", none],
    ["history", whole, ...trust, "--held", held],
    ["history", whole, ...trust, "--unknown"],
    ["history", whole, ...trust, "--policy", held],
    ["receipt", whole, whole, ...trust, "--tag", PERSON_HEX],
    ["evidence", whole],
    ["evidence", whole, whole, ...trust],
    ["evidence", whole, ...trust, "--tag", PERSON_HEX],
    ["evidence", whole, ...trust, "--policy", held],
    ["evidence", whole, ...trust, "--policy", join(directory, "missing")],
    ["history", join(directory, "missing"), ...trust],
  ]) {
    const { status, stdout, stderr } = run(args);
    assert.deepEqual([status, stdout], [2, ""], args.join(" "));
    assert.match(stderr, /^undetermined: /, args.join(" "));
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
