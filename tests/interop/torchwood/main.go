// Copyright The consentd Authors.
// SPDX-License-Identifier: Apache-2.0

// Command torchwood checks receipts, and cosignatures with ML-DSA-44, with code that other people wrote:
// filippo.io/torchwood and github.com/transparency-dev/formats.
//
// It does what its flags ask for, prints one line of JSON, and exits 0 if all holds, else 1:
//
//	-policy, -leaf, -proof   verify that the proof (C2SP tlog-proof) shows the leaf, under the policy (tlog-policy)
//	-vkey, -checkpoint       verify that this ML-DSA-44 key signed the checkpoint
//	-skey, -checkpoint       cosign the checkpoint with this ML-DSA-44 key, and print the note
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"filippo.io/torchwood"
	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

var (
	policyFile     = flag.String("policy", "", "`file` of the trust policy")
	leafFile       = flag.String("leaf", "", "`file` with the bytes of the leaf")
	proofFile      = flag.String("proof", "", "`file` of the proof")
	vkeyFile       = flag.String("vkey", "", "`file` of an ML-DSA-44 verifier key")
	skeyFile       = flag.String("skey", "", "`file` of an ML-DSA-44 signing key")
	checkpointFile = flag.String("checkpoint", "", "`file` of a checkpoint note")
)

func main() {
	flag.Parse()
	answer := map[string]any{"ok": true}
	text, err := run()
	if text != "" {
		answer["note"] = text
	}
	if err != nil {
		answer["ok"] = false
		answer["error"] = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil || answer["ok"] == false {
		os.Exit(1)
	}
}

func run() (string, error) {
	switch {
	case *proofFile != "":
		return "", verifyProof()
	case *vkeyFile != "":
		return "", verifyCheckpoint()
	case *skeyFile != "":
		return cosign()
	}
	return "", fmt.Errorf("nothing was asked for")
}

func verifyProof() error {
	text, err := os.ReadFile(*policyFile)
	if err != nil {
		return err
	}
	policy, err := torchwood.ParsePolicy(text)
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	leaf, err := os.ReadFile(*leafFile)
	if err != nil {
		return err
	}
	proof, err := os.ReadFile(*proofFile)
	if err != nil {
		return err
	}
	return torchwood.VerifyProof(policy, tlog.RecordHash(leaf), proof)
}

func verifyCheckpoint() error {
	vkey, err := os.ReadFile(*vkeyFile)
	if err != nil {
		return err
	}
	verifier, err := fnote.NewMLDSAVerifier(string(vkey))
	if err != nil {
		return fmt.Errorf("verifier key: %w", err)
	}
	checkpoint, err := os.ReadFile(*checkpointFile)
	if err != nil {
		return err
	}
	_, err = note.Open(checkpoint, note.VerifierList(verifier))
	return err
}

func cosign() (string, error) {
	skey, err := os.ReadFile(*skeyFile)
	if err != nil {
		return "", err
	}
	signer, err := fnote.NewMLDSASigner(string(skey))
	if err != nil {
		return "", fmt.Errorf("signing key: %w", err)
	}
	text, err := os.ReadFile(*checkpointFile)
	if err != nil {
		return "", err
	}
	signed, err := note.Sign(&note.Note{Text: string(text)}, signer)
	return string(signed), err
}
