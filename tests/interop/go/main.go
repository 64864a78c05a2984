// Copyright The consentd Authors.
// SPDX-License-Identifier: Apache-2.0

// Command interop checks a directory laid out as C2SP tlog-tiles, and proofs that came with it, with the code of the
// Go checksum database: a verifier that shares nothing with consentd but the specifications.
//
// It opens the checkpoint with the verifier key, reads tiles through a hash reader that authenticates each one
// against the checkpoint, proves and checks the inclusion of one leaf and the consistency with an older tree, and
// checks the proofs given to it of the same two statements. It prints one line of JSON and exits 0 if all hold, else 1.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// tileHeight is the height of a C2SP tile: 256 hashes.
const tileHeight = 8

var (
	dir         = flag.String("dir", "", "`directory` with checkpoint and tile/")
	vkey        = flag.String("vkey", "", "verifier `key` of the log")
	index       = flag.Int64("index", 0, "`index` of the leaf to check")
	leafFile    = flag.String("leaf", "", "`file` with the bytes of that leaf")
	oldSize     = flag.Int64("old-size", 0, "`size` of the older tree")
	oldRoot     = flag.String("old-root", "", "root hash of the older tree, in base64")
	inclusion   = flag.String("inclusion", "", "`file` with an inclusion proof of the leaf, a base64 hash a line")
	consistency = flag.String("consistency", "", "`file` with a consistency proof, a base64 hash a line")
)

func main() {
	flag.Parse()
	answer := map[string]any{"ok": true}
	size, err := check()
	answer["size"] = size
	if err != nil {
		answer["ok"] = false
		answer["error"] = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil || answer["ok"] == false {
		os.Exit(1)
	}
}

// check runs all checks and returns the size of the checkpoint.
func check() (int64, error) {
	tree, err := openCheckpoint()
	if err != nil {
		return 0, fmt.Errorf("checkpoint: %w", err)
	}
	leaf, err := os.ReadFile(*leafFile)
	if err != nil {
		return tree.N, err
	}
	leafHash := tlog.RecordHash(leaf)
	older, err := tlog.ParseHash(*oldRoot)
	if err != nil {
		return tree.N, fmt.Errorf("older root: %w", err)
	}
	reader := tlog.TileHashReader(tree, tiles{})

	// What Go proves from our tiles.
	record, err := tlog.ProveRecord(tree.N, *index, reader)
	if err != nil {
		return tree.N, fmt.Errorf("proving inclusion: %w", err)
	}
	if err := tlog.CheckRecord(record, tree.N, tree.Hash, *index, leafHash); err != nil {
		return tree.N, fmt.Errorf("inclusion from tiles: %w", err)
	}
	treeProof, err := tlog.ProveTree(tree.N, *oldSize, reader)
	if err != nil {
		return tree.N, fmt.Errorf("proving consistency: %w", err)
	}
	if err := tlog.CheckTree(treeProof, tree.N, tree.Hash, *oldSize, older); err != nil {
		return tree.N, fmt.Errorf("consistency from tiles: %w", err)
	}

	// What consentd proved.
	ours, err := readHashes(*inclusion)
	if err != nil {
		return tree.N, fmt.Errorf("inclusion proof: %w", err)
	}
	if err := tlog.CheckRecord(ours, tree.N, tree.Hash, *index, leafHash); err != nil {
		return tree.N, fmt.Errorf("inclusion proof: %w", err)
	}
	ours, err = readHashes(*consistency)
	if err != nil {
		return tree.N, fmt.Errorf("consistency proof: %w", err)
	}
	if err := tlog.CheckTree(ours, tree.N, tree.Hash, *oldSize, older); err != nil {
		return tree.N, fmt.Errorf("consistency proof: %w", err)
	}

	// The leaf in its entry bundle.
	if err := checkBundle(tree.N, leaf); err != nil {
		return tree.N, fmt.Errorf("entry bundle: %w", err)
	}
	return tree.N, nil
}

// openCheckpoint verifies the log's signature and parses origin, size and root hash.
func openCheckpoint() (tlog.Tree, error) {
	msg, err := os.ReadFile(filepath.Join(*dir, "checkpoint"))
	if err != nil {
		return tlog.Tree{}, err
	}
	verifier, err := note.NewVerifier(*vkey)
	if err != nil {
		return tlog.Tree{}, err
	}
	opened, err := note.Open(msg, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() || lines[3] != "" {
		return tlog.Tree{}, errors.New("not three lines with the key's name as origin")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	hash, err := tlog.ParseHash(lines[2])
	return tlog.Tree{N: size, Hash: hash}, err
}

// tiles reads tiles from the directory. Its paths lack the height that those of the checksum database have.
type tiles struct{}

func (tiles) Height() int { return tileHeight }

func (tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	var rows [][]byte
	for _, tile := range wanted {
		row, err := os.ReadFile(filepath.Join(*dir, ourPath(tile)))
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func (tiles) SaveTiles([]tlog.Tile, [][]byte) {}

// ourPath turns tile/8/L/N into tile/L/N, and tile/8/data/N into tile/entries/N.
func ourPath(tile tlog.Tile) string {
	path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
	return filepath.FromSlash(strings.Replace(path, "tile/data/", "tile/entries/", 1))
}

// checkBundle finds the leaf at its place in its entry bundle, behind its length.
func checkBundle(size int64, leaf []byte) error {
	tile := tlog.Tile{H: tileHeight, L: -1, N: *index >> tileHeight, W: 1 << tileHeight}
	if rest := size - tile.N<<tileHeight; rest < int64(tile.W) {
		tile.W = int(rest)
	}
	bundle, err := os.ReadFile(filepath.Join(*dir, ourPath(tile)))
	if err != nil {
		return err
	}
	for i := int64(0); ; i++ {
		if len(bundle) < 2 || len(bundle) < 2+int(bundle[0])<<8+int(bundle[1]) {
			return errors.New("ends within an entry")
		}
		end := 2 + int(bundle[0])<<8 + int(bundle[1])
		if i == *index&(1<<tileHeight-1) {
			if !bytes.Equal(bundle[2:end], leaf) {
				return errors.New("has other bytes for the leaf")
			}
			return nil
		}
		bundle = bundle[end:]
	}
}

// readHashes reads a proof, a base64 hash a line.
func readHashes(file string) ([]tlog.Hash, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	hashes := []tlog.Hash{}
	for _, line := range strings.Fields(string(text)) {
		raw, err := base64.StdEncoding.DecodeString(line)
		if err != nil {
			return nil, err
		}
		if len(raw) != tlog.HashSize {
			return nil, errors.New("a hash is not 32 bytes long")
		}
		hashes = append(hashes, tlog.Hash(raw))
	}
	return hashes, nil
}
