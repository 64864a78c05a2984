// Copyright The consentd Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/consentd/consentd/clients/go/consentd/v1"
)

// signGrant returns a consent, signed with the person's key: clinic-b may have clinical data of hospital-a for treatment.
func signGrant(requestID []byte, origin string, tag []byte, key ed25519.PrivateKey) (*pb.GrantConsentRequest_Signed, error) {
	statement := &pb.GrantStatement{Consent: &pb.Consent{
		Kind: pb.ConsentKind_CONSENT_KIND_CONSENT,
		Root: &pb.Provision{
			Effect: pb.Effect_EFFECT_PERMIT, Actors: []string{"clinic-b"}, Holders: []string{"hospital-a"},
			Purposes: []string{"TREAT"}, Categories: []string{"CLIN"},
		},
		Language: "ko",
	}}
	payload, err := proto.Marshal(statement)
	if err != nil {
		return nil, err
	}
	now := uint64(time.Now().UnixMilli())
	signature := ed25519.Sign(key, signedBytes(origin, pb.EntryKind_ENTRY_KIND_GRANT, tag, 0, requestID, now, payload))
	return &pb.GrantConsentRequest_Signed{Signed: &pb.SignedStatement{
		Key: key.Public().(ed25519.PublicKey), Signature: signature, AuthorTimeMs: int64(now), Payload: payload,
	}}, nil
}

// provePossession returns the proof that a person has the private key: callers.md, "Proof of possession".
func provePossession(origin string, subject *pb.Subject, key ed25519.PrivateKey) []byte {
	name, owner := sha256.Sum256([]byte(origin)), sha256.Sum256([]byte("subject/"+subject.Scheme+":"+subject.Value))
	proof := append([]byte("consentd/possession/v1\x00"), name[:]...)
	proof = append(append(proof, owner[:]...), key.Public().(ed25519.PublicKey)...)
	return ed25519.Sign(key, proof)
}

// signedBytes returns what the author of an entry signs: ledger-format.md, "Statement".
func signedBytes(origin string, kind pb.EntryKind, tag []byte, ref uint64, requestID []byte, timeMs uint64, payload []byte) []byte {
	name, content := sha256.Sum256([]byte(origin)), sha256.Sum256(payload)
	signed := append([]byte("consentd/entry/v1\x00"), name[:]...)
	signed = append(signed, byte(kind))
	signed = append(signed, tag...)
	signed = binary.BigEndian.AppendUint64(signed, ref)
	signed = append(signed, requestID...)
	signed = binary.BigEndian.AppendUint64(signed, timeMs)
	return append(signed, content[:]...)
}
