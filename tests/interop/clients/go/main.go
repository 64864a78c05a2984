// Copyright The consentd Authors.
// SPDX-License-Identifier: Apache-2.0

// Command clients calls a daemon as a Go program would, with what plain protoc generates from proto/: it enrols a
// person, grants a consent, checks, authorizes an access, records its outcome, revokes the consent, and reads and
// verifies the history. It prints one line of JSON and exits 0 if all went as it must, else 1.
package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"golang.org/x/mod/sumdb/note"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/consentd/consentd/clients/go/consentd/v1"
)

var (
	address = flag.String("address", "", "`HOST:PORT` of the daemon's gRPC, on this machine")
	vkey    = flag.String("vkey", "", "verifier `key` of the log; its name is the origin")
	person  = flag.String("person", "", "`identifier` of a person who is not enrolled")
	// The tokens of an application that acts for persons, and of a recipient that asks for itself.
	appToken       = flag.String("app-token", "", "bearer `token` of the application")
	recipientToken = flag.String("recipient-token", "", "bearer `token` of the recipient")
)

// timeout is for the whole life of the consent. Nothing waits for it unless the daemon does not answer.
const timeout = 2 * time.Minute

// clients are the stubs of a daemon, and the credentials of those who call it.
type clients struct {
	registry  pb.RegistryServiceClient
	consents  pb.ConsentServiceClient
	policy    pb.PolicyServiceClient
	access    pb.AccessServiceClient
	ledger    pb.LedgerServiceClient
	app       context.Context
	recipient context.Context
}

func main() {
	flag.Parse()
	answer, err := run()
	if err != nil {
		answer = map[string]any{"error": err.Error()}
	}
	if encodeErr := json.NewEncoder(os.Stdout).Encode(answer); err != nil || encodeErr != nil {
		os.Exit(1)
	}
}

// run goes through the life of one consent, and returns what it saw.
func run() (map[string]any, error) {
	log, err := note.NewVerifier(*vkey)
	if err != nil {
		return nil, err
	}
	connection, err := grpc.NewClient(*address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c := &clients{
		registry:  pb.NewRegistryServiceClient(connection),
		consents:  pb.NewConsentServiceClient(connection),
		policy:    pb.NewPolicyServiceClient(connection),
		access:    pb.NewAccessServiceClient(connection),
		ledger:    pb.NewLedgerServiceClient(connection),
		app:       metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+*appToken),
		recipient: metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+*recipientToken),
	}
	return c.live(log)
}

// live writes and reads the life of one consent.
func (c *clients) live(log note.Verifier) (map[string]any, error) {
	subject := &pb.Subject{Scheme: "mhid", Value: *person}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	enrol := &pb.EnrolSubjectRequest{
		RequestId: requestID(), Subject: subject, Method: "app", SubjectKey: public,
		Possession: provePossession(log.Name(), subject, private),
	}
	enrolled, err := c.registry.EnrolSubject(c.app, enrol)
	if err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	again := &pb.EnrolSubjectRequest{RequestId: requestID(), Subject: subject, Method: "app"}
	_, err = c.registry.EnrolSubject(c.app, again)
	enrolledTwice, err := reasonOf(err)
	if err != nil {
		return nil, fmt.Errorf("enrol again: %w", err)
	}

	// The person signs the consent. Not even the daemon could have made the entry.
	grant := &pb.GrantConsentRequest{RequestId: requestID(), Subject: subject}
	grant.Statement, err = signGrant(grant.RequestId, log.Name(), enrolled.Tag, private)
	if err != nil {
		return nil, err
	}
	granted, err := c.consents.GrantConsent(c.app, grant)
	if err != nil {
		return nil, fmt.Errorf("grant: %w", err)
	}

	question := &pb.Question{
		Subject: subject, Actor: &pb.Actor{Organisation: "clinic-b"}, Holder: "hospital-a",
		Purpose: "TREAT", Action: "disclose", Categories: []string{"CLIN.DX"},
	}
	checked, err := c.policy.Check(c.recipient, &pb.CheckRequest{Question: question})
	if err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	authorized, err := c.access.AuthorizeAccess(c.recipient, &pb.AuthorizeAccessRequest{
		RequestId: requestID(),
		Asked:     &pb.AuthorizeAccessRequest_Question{Question: question},
		WaitFor:   pb.WaitFor_WAIT_FOR_PUBLISHED,
	})
	if err != nil {
		return nil, fmt.Errorf("authorize: %w", err)
	}
	if err := verifyReceipt(log, authorized.Receipt); err != nil {
		return nil, fmt.Errorf("receipt of the access: %w", err)
	}
	if err := c.record(subject, authorized.AccessSeq); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	revoked, err := c.consents.RevokeConsent(c.app, &pb.RevokeConsentRequest{
		RequestId: requestID(), Subject: subject, ConsentId: granted.ConsentId,
		Statement: &pb.RevokeConsentRequest_Attested{Attested: &pb.RevokeStatement{Note: "moved away"}},
		WaitFor:   pb.WaitFor_WAIT_FOR_PUBLISHED,
	})
	if err != nil {
		return nil, fmt.Errorf("revoke: %w", err)
	}
	after, err := c.policy.Check(c.recipient, &pb.CheckRequest{Question: question})
	if err != nil {
		return nil, fmt.Errorf("check again: %w", err)
	}

	history, err := c.readHistory(subject)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	kinds, err := c.verifyHistory(log, history, enrolled.Tag)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	return map[string]any{
		"enrolled_twice": enrolledTwice,
		"check":          checked.Decision.Outcome.String(),
		"authorize":      authorized.Decision.Outcome.String(),
		"check_revoked":  after.Decision.Outcome.String(),
		"published":      revoked.Receipt.Published,
		"kinds":          kinds,
	}, nil
}

// record reports, as the recipient, what the transfer did.
func (c *clients) record(subject *pb.Subject, accessSeq uint64) error {
	outcome := &pb.OutcomeStatement{
		Status: pb.TransferStatus_TRANSFER_STATUS_RECEIVED, Categories: []string{"CLIN.DX"}, ResourceCount: 3,
		HappenedTimeMs: time.Now().UnixMilli(),
	}
	_, err := c.access.RecordAccess(c.recipient, &pb.RecordAccessRequest{
		RequestId: requestID(), Subject: subject, AccessSeq: accessSeq,
		Statement: &pb.RecordAccessRequest_Attested{Attested: outcome},
	})
	return err
}

// requestID returns 16 random bytes.
func requestID() []byte {
	id := make([]byte, 16)
	rand.Read(id) // never fails
	return id
}

// reasonOf returns the code and the ErrorInfo reason of an error that was expected.
func reasonOf(err error) (string, error) {
	found := status.Convert(err)
	if found.Code() == codes.OK {
		return "", errors.New("no error")
	}
	for _, detail := range found.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == "consentd" {
			return fmt.Sprintf("%d %s", found.Code(), info.Reason), nil
		}
	}
	return "", fmt.Errorf("without ErrorInfo: %w", err)
}
