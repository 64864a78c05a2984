// Copyright The consentd Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	pb "github.com/consentd/consentd/clients/go/consentd/v1"
)

const (
	leafSize = 122 // bytes of an event leaf: ledger-format.md, "Leaves"
	sealSize = 90  // bytes of a seal
)

// history is the stream of GetHistory, put together.
type history struct {
	head    *pb.HistoryHead
	chains  []*pb.HistoryChain
	entries map[string][]*pb.LedgerEntry // by the chain's tag
}

// readHistory reads the history of a person.
func (c *clients) readHistory(subject *pb.Subject) (*history, error) {
	request := &pb.GetHistoryRequest{Chain: &pb.GetHistoryRequest_Subject{Subject: subject}}
	stream, err := c.ledger.GetHistory(c.app, request)
	if err != nil {
		return nil, err
	}
	read := &history{entries: map[string][]*pb.LedgerEntry{}}
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return read, nil
		}
		if err != nil {
			return nil, err
		}
		switch piece := response.Piece.(type) {
		case *pb.GetHistoryResponse_Head:
			read.head = piece.Head
		case *pb.GetHistoryResponse_Chain:
			read.chains = append(read.chains, piece.Chain)
		case *pb.GetHistoryResponse_Entries:
			tag := string(read.chains[len(read.chains)-1].Tag)
			read.entries[tag] = append(read.entries[tag], piece.Entries.Entries...)
		default:
			return nil, fmt.Errorf("unknown piece: %T", piece)
		}
	}
}

// verifyHistory verifies the log's signature, the seal, and that the person's entries are in the tree and lead to the
// head of the chain without a gap. It returns their kinds. It does not verify the map, nor the authors' signatures.
func (c *clients) verifyHistory(log note.Verifier, read *history, tag []byte) ([]string, error) {
	if read.head == nil || len(read.chains) == 0 || !bytes.Equal(read.chains[0].Tag, tag) {
		return nil, errors.New("not the history of this tag")
	}
	tree, err := openCheckpoint(log, read.head.Checkpoint)
	if err != nil {
		return nil, err
	}
	seal := read.head.Seal
	if len(seal) != sealSize || seal[1] != 0 || binary.BigEndian.Uint64(seal[10:]) != uint64(tree.N-1) {
		return nil, errors.New("the last leaf is not a seal of the tree")
	}
	if err := checkRecord(read.head.SealInclusion, tree, tree.N-1, tlog.RecordHash(seal)); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}

	chain := read.chains[0]
	kinds, previous := []string{}, make([]byte, sha256.Size)
	for _, entry := range read.entries[string(chain.Tag)] {
		leaf := entry.Leaf
		if len(leaf) != leafSize || !bytes.Equal(leaf[10:42], tag) {
			return nil, errors.New("not a leaf of this tag")
		}
		if seq := binary.BigEndian.Uint64(leaf[42:]); seq != uint64(len(kinds)+1) || !bytes.Equal(leaf[50:82], previous) {
			return nil, fmt.Errorf("entry %d does not follow the one before", seq)
		}
		if err := c.checkEntry(tree, entry); err != nil {
			return nil, fmt.Errorf("entry %d: %w", len(kinds)+1, err)
		}
		hash := sha256.Sum256(append([]byte("consentd/chain/v1\x00"), leaf...))
		previous = hash[:]
		kinds = append(kinds, strings.TrimPrefix(pb.EntryKind(leaf[1]).String(), "ENTRY_KIND_"))
	}
	if uint64(len(kinds)) != chain.Count || !bytes.Equal(chain.Head, previous) {
		return nil, errors.New("the entries do not lead to the head of the chain")
	}
	return kinds, nil
}

// checkEntry verifies that the leaf is in the tree, and that it commits to the statement shown.
func (c *clients) checkEntry(tree tlog.Tree, entry *pb.LedgerEntry) error {
	request := &pb.GetInclusionProofRequest{Index: entry.Index, TreeSize: uint64(tree.N)}
	proof, err := c.ledger.GetInclusionProof(c.app, request)
	if err != nil {
		return err
	}
	if err := checkRecord(proof.Hashes, tree, int64(entry.Index), tlog.RecordHash(entry.Leaf)); err != nil {
		return err
	}
	opened := append([]byte("consentd/commit/v1\x00"), entry.Opening.GetSalt()...)
	commit := sha256.Sum256(append(opened, entry.Opening.GetStatement()...))
	if !bytes.Equal(entry.Leaf[82:114], commit[:]) {
		return errors.New("the leaf commits to another statement")
	}
	return nil
}

// verifyReceipt verifies a C2SP tlog-proof and that it is of the receipt's leaf.
func verifyReceipt(log note.Verifier, receipt *pb.Receipt) error {
	proof, checkpoint, found := bytes.Cut(receipt.Proof, []byte("\n\n"))
	lines := strings.Split(string(proof), "\n")
	if !found || len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return errors.New("not a tlog-proof")
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[1], "index "), 10, 64)
	if err != nil {
		return err
	}
	tree, err := openCheckpoint(log, checkpoint)
	if err != nil {
		return err
	}
	hashes := [][]byte{}
	for _, line := range lines[2:] {
		hash, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil {
			return err
		}
		hashes = append(hashes, hash)
	}
	if uint64(index) != receipt.Index {
		return errors.New("the proof is of another index")
	}
	return checkRecord(hashes, tree, index, tlog.RecordHash(receipt.Leaf))
}

// openCheckpoint verifies the log's signature and parses size and root hash.
func openCheckpoint(log note.Verifier, message []byte) (tlog.Tree, error) {
	opened, err := note.Open(message, note.VerifierList(log))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != log.Name() || lines[3] != "" {
		return tlog.Tree{}, errors.New("not a checkpoint of this origin")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	root, err := tlog.ParseHash(lines[2])
	return tlog.Tree{N: size, Hash: root}, err
}

// checkRecord verifies an inclusion proof with the code of the Go checksum database.
func checkRecord(proof [][]byte, tree tlog.Tree, index int64, leaf tlog.Hash) error {
	record := tlog.RecordProof{}
	for _, raw := range proof {
		if len(raw) != tlog.HashSize {
			return errors.New("a hash is not 32 bytes long")
		}
		record = append(record, tlog.Hash(raw))
	}
	return tlog.CheckRecord(record, tree.N, tree.Hash, index, leaf)
}
