/**
 * Call a daemon as a person with a key of their own: an app enrols the person; then the person grants a consent, checks
 * it, reads and verifies the history, revokes the consent, and asks about somebody else. Prints one line of JSON and
 * exits 0 if all went as it must, else 1.
 */

import { randomBytes } from "node:crypto";
import { parseArgs } from "node:util";

import { KINDS, PersonKey, verifyHistory } from "@consentd/verify";
import { credentials } from "@grpc/grpc-js";

import { call, caller, reasonOf, requestId } from "./calls.js";
import { AccessServiceClient, AuthorizeAccessRequest, type AuthorizeAccessResponse } from "./consentd/v1/access_service.js";
import { ConsentKind, Effect, outcomeToJSON, Question, Subject, WaitFor } from "./consentd/v1/consent.js";
import {
  ConsentServiceClient,
  ConsentServiceService,
  GetConsentRequest,
  GrantConsentRequest,
  RevokeConsentRequest,
} from "./consentd/v1/consent_service.js";
import { GetHistoryRequest, LedgerServiceClient, LedgerServiceService } from "./consentd/v1/ledger_service.js";
import { CheckRequest, PolicyServiceClient, PolicyServiceService } from "./consentd/v1/policy_service.js";
import { EnrolSubjectRequest, type EnrolSubjectResponse, RegistryServiceClient } from "./consentd/v1/registry_service.js";
import { EntryKind, GrantStatement, RevokeStatement } from "./consentd/v1/statement.js";
import { evidenceOf } from "./history.js";
import { callAs, streamAs } from "./signed_calls.js";

const { values: options } = parseArgs({
  options: {
    address: { type: "string", default: "" }, // HOST:PORT of the daemon's gRPC, on this machine
    vkey: { type: "string", default: "" }, // the log's verifier key; its name is the origin
    person: { type: "string", default: "" }, // identifier of a person who is not enrolled
    other: { type: "string", default: "" }, // identifier of another person, who is enrolled
    "app-token": { type: "string", default: "" }, // of an application that acts for persons
    "recipient-token": { type: "string", default: "" }, // of a recipient that asks for itself
  },
});

const channel = [options.address, credentials.createInsecure()] as const;
const registry = new RegistryServiceClient(...channel);
const consents = new ConsentServiceClient(...channel);
const policy = new PolicyServiceClient(...channel);
const access = new AccessServiceClient(...channel);
const ledger = new LedgerServiceClient(...channel);

const trust = { origin: options.vkey.split("+")[0]!, logKey: options.vkey };
const signer = { key: new PersonKey(randomBytes(32)), origin: trust.origin };
const subject = Subject.fromPartial({ scheme: "mhid", value: options.person });
const other = Subject.fromPartial({ scheme: "mhid", value: options.other });
const data = { holder: "hospital-a", purpose: "TREAT", action: "access", categories: ["CLIN.DX"] };

/** Sign a statement of the person's, and return it with the request_id that it is signed for. */
function sign(kind: EntryKind, tag: Buffer, payload: Uint8Array, ref: bigint) {
  const id = requestId();
  const fields = signer.key.signStatement({
    origin: trust.origin, kind, tag, ref, requestId: id, timeMs: Date.now(), payload,
  });
  const { key, signature } = fields;
  const value = { ...fields, key: Buffer.from(key), signature: Buffer.from(signature), payload: Buffer.from(payload) };
  return { requestId: id, statement: { $case: "signed", value } as const };
}

function enrol(): Promise<EnrolSubjectResponse> {
  const request = EnrolSubjectRequest.fromPartial({
    requestId: requestId(), subject, method: "app", subjectKey: Buffer.from(signer.key.publicKey),
    possession: Buffer.from(signer.key.provePossession(trust.origin, subject)),
  });
  return call((done) => registry.enrolSubject(request, caller(options["app-token"]), done));
}

async function grant(tag: Buffer): Promise<string> {
  const root = {
    effect: Effect.EFFECT_PERMIT,
    actors: ["clinic-b", "SUBJECT"],
    holders: ["hospital-a"],
    purposes: ["TREAT"],
    categories: ["CLIN"],
  };
  const consent = { kind: ConsentKind.CONSENT_KIND_CONSENT, root, language: "ko" };
  const payload = GrantStatement.encode(GrantStatement.fromPartial({ consent })).finish();
  const statement = sign(EntryKind.ENTRY_KIND_GRANT, tag, payload, 0n);
  const request = GrantConsentRequest.fromPartial({ subject, ...statement });
  return (await callAs(signer, consents, ConsentServiceService.grantConsent, request)).consentId;
}

async function check(about: Subject): Promise<string> {
  const question = Question.fromPartial({ subject: about, actor: { organisation: "SUBJECT" }, ...data });
  const answer = await callAs(signer, policy, PolicyServiceService.check, CheckRequest.fromPartial({ question }));
  return outcomeToJSON(answer.decision!.outcome);
}

function authorize(): Promise<AuthorizeAccessResponse> {
  const question = Question.fromPartial({ subject, actor: { organisation: "clinic-b" }, ...data });
  const request = AuthorizeAccessRequest.fromPartial({ requestId: requestId(), asked: { $case: "question", value: question } });
  return call((done) => access.authorizeAccess(request, caller(options["recipient-token"]), done));
}

async function revoke(tag: Buffer, consentId: string): Promise<boolean> {
  const read = GetConsentRequest.fromPartial({ subject, consentId });
  const { record } = await callAs(signer, consents, ConsentServiceService.getConsent, read);
  const stated = RevokeStatement.fromPartial({ lineageSeq: record!.lineageSeq, note: "moved away" });
  const payload = RevokeStatement.encode(stated).finish();
  const statement = sign(EntryKind.ENTRY_KIND_REVOKE, tag, payload, record!.seq);
  const waitFor = WaitFor.WAIT_FOR_PUBLISHED;
  const request = RevokeConsentRequest.fromPartial({ subject, consentId, waitFor, ...statement });
  return (await callAs(signer, consents, ConsentServiceService.revokeConsent, request)).receipt!.published;
}

/** Write and read the life of one consent; return what was seen. */
async function live(): Promise<object> {
  const { tag } = await enrol();
  const consentId = await grant(tag);
  const checked = await check(subject);
  const authorized = await authorize();
  const published = await revoke(tag, consentId);
  const revoked = await check(subject);
  const request = GetHistoryRequest.fromPartial({ chain: { $case: "subject", value: subject } });
  const pieces = await streamAs(signer, ledger, LedgerServiceService.getHistory, request);
  const history = verifyHistory(evidenceOf(pieces, tag), { ...trust, tag });
  return {
    check: checked,
    authorize: outcomeToJSON(authorized.decision!.outcome),
    check_revoked: revoked,
    published,
    other: await check(other).then(() => "no error", reasonOf),
    authors: history.entries.map(({ event, author }) => `${KINDS.get(event.kind)!.name} ${author!.owner}`),
  };
}

try {
  console.log(JSON.stringify(await live()));
} catch (error) {
  console.log(JSON.stringify({ error: String(error) }));
  process.exitCode = 1;
}
