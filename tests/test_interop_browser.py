"""A browser on a page of another origin reads the daemon's HTTP, and verifies what it gets."""

import json
import re
from pathlib import Path

import pytest

from cases.daemons import question, running_daemon
from cases.http_requests import get
from cases.typescript import PAGE_HEAD, build_package, show
from cases.vectors_case import b64
from consentd.core import note
from consentd.cosigning.keyfiles import read_signing_key
from consentd.v1 import consent_pb2
from consentd_client import Client, pin
from consentd_client.evidence import save_history

PAGE = PAGE_HEAD + """\
<script type="module">
  import * as verify from "@consentd/verify";
  import { openCheckpoint } from "/dist/src/checkpoint.js";
  import { leafHash, nodeHash, verifyInclusion } from "/dist/src/merkle.js";

  const { daemon, token, origin, logKey, tag, leaf, index, history } = PASSED;
  const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  const content = async (answer) => new Uint8Array(await answer.arrayBuffer());
  const split = (count) => { let half = 1; while (half * 2 < count) half *= 2; return half; };
  const root = (hashes) => {
    if (hashes.length === 1) return hashes[0];
    const half = split(hashes.length);
    return nodeHash(root(hashes.slice(0, half)), root(hashes.slice(half)));
  };
  const path = (hashes, at) => {
    if (hashes.length === 1) return [];
    const half = split(hashes.length), left = hashes.slice(0, half), right = hashes.slice(half);
    return at < half ? [...path(left, at), root(right)] : [...path(right, at - half), root(left)];
  };
  const said = {};
  try {
    const fetched = await fetch(`${daemon}/checkpoint`);
    const [checkpoint] = openCheckpoint(await content(fetched), origin, verify.parseVkey(logKey));
    said.size = Number(checkpoint.size);
    const tile = await fetch(`${daemon}/tile/0/000.p/${checkpoint.size}`);
    const row = await content(tile);
    const hashes = Array.from({ length: said.size }, (_, n) => row.slice(32 * n, 32 * n + 32));
    const { size, root: rootHash } = checkpoint;
    const claim = { index: BigInt(index), size, leafHash: leafHash(bytes(leaf)), root: rootHash };
    verifyInclusion(path(hashes, index), claim);
    said.included = true;
    try {
      verifyInclusion(path(hashes, index), { ...claim, leafHash: leafHash(bytes(leaf).slice(1)) });
    } catch (error) {
      said.changed = error.name;
    }
    const found = verify.verifyHistory(bytes(history), { origin, logKey, tag: verify.decodeHex(tag) });
    said.history = found.entries.map(({ event }) => verify.KINDS.get(event.kind).name);
    const tagged = { "If-None-Match": tile.headers.get("ETag") };  // the browser asks first whether it may send this
    said.again = (await fetch(`${daemon}/tile/0/000.p/${checkpoint.size}`, { headers: tagged })).status;
    const part = await fetch(`${daemon}/tile/0/000.p/${checkpoint.size}`, { headers: { Range: "bytes=0-31" } });
    said.part = [part.status, (await content(part)).length, part.headers.get("Content-Range")];
    said.missing = (await fetch(`${daemon}/tile/0/999`)).status;
    const entries = `${daemon}/tile/entries/000.p/${checkpoint.size}`;
    const auditor = { headers: { Authorization: `Bearer ${token}` } };
    said.entries = [(await fetch(entries)).status, (await fetch(entries, auditor)).status];
    for (const page of ["metrics", "healthz"]) {
      said[page] = await fetch(`${daemon}/${page}`).then(() => "shown", (error) => error.name);
    }
  } catch (error) {
    said.error = String(error);
  }
  document.documentElement.textContent = JSON.stringify(said);
</script>
"""


@pytest.mark.slow
def test_a_page_of_another_origin_verifies_what_the_daemon_serves(tmp_path: Path) -> None:
    package = build_package(tmp_path / "typescript")
    with running_daemon(tmp_path / "daemon", checkpoint_interval_ms=20) as running:
        log = read_signing_key(running.config.keys.log_key_file)
        subject = running.enrol("SYN-0001")
        running.grant(subject)
        receipt = running.authorize(question(subject), wait_for=consent_pb2.WAIT_FOR_PUBLISHED).receipt
        trust = pin(log.verifier, running.config.ledger.origin)
        with Client(f"127.0.0.1:{running.daemon.grpc_port}", token=running.tokens["app"], trust=trust) as client:
            found, history = client.run(save_history(client.context, subject))
        passed = {
            "daemon": f"http://127.0.0.1:{running.daemon.http_port}",
            "token": running.tokens["pipc"],
            "origin": log.name,
            "logKey": note.format_vkey(log.verifier),
            "tag": found.tag.hex(),
            "leaf": b64(receipt.leaf),
            "index": receipt.index,
            "history": b64(history),
        }
        shown = show(package, PAGE.replace("PASSED", json.dumps(passed)), tmp_path / "profile")
        size = int(get(running, "/checkpoint").body.split(b"\n")[1])
        running.check_ledger()
    answer = re.search(r"<html>(\{.*\})</html>", shown)
    assert answer, shown
    assert json.loads(answer[1]) == {
        "size": size, "included": True, "changed": "ProofError", "history": ["ENROL", "GRANT", "ACCESS"], "again": 304,
        "part": [206, 32, f"bytes 0-31/{size * 32}"], "missing": 404, "metrics": "TypeError", "healthz": "TypeError",
        "entries": [401, 200],
    }  # fmt: skip
