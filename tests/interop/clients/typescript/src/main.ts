/**
 * Call a daemon as a TypeScript program would, with what plain protoc generates from proto/: enrol a person, grant a
 * consent, check, authorize an access, record its outcome, revoke the consent, and read and verify the history. Prints
 * one line of JSON and exits 0 if all went as it must, else 1.
 */

import { parseArgs } from "node:util";

import { KINDS, verifyHistory, verifyReceipt } from "@consentd/verify";
import { credentials } from "@grpc/grpc-js";

import { call, caller, reasonOf, requestId } from "./calls.js";
import {
  AccessServiceClient,
  AuthorizeAccessRequest,
  type AuthorizeAccessResponse,
  RecordAccessRequest,
} from "./consentd/v1/access_service.js";
import { ConsentKind, Effect, outcomeToJSON, Question, Subject, WaitFor } from "./consentd/v1/consent.js";
import {
  ConsentServiceClient,
  GrantConsentRequest,
  type GrantConsentResponse,
  RevokeConsentRequest,
  type RevokeConsentResponse,
} from "./consentd/v1/consent_service.js";
import { GetHistoryRequest, type GetHistoryResponse, LedgerServiceClient } from "./consentd/v1/ledger_service.js";
import { CheckRequest, type CheckResponse, PolicyServiceClient } from "./consentd/v1/policy_service.js";
import { EnrolSubjectRequest, type EnrolSubjectResponse, RegistryServiceClient } from "./consentd/v1/registry_service.js";
import { TransferStatus } from "./consentd/v1/statement.js";
import { evidenceOf } from "./history.js";

const { values: options } = parseArgs({
  options: {
    address: { type: "string", default: "" }, // HOST:PORT of the daemon's gRPC, on this machine
    vkey: { type: "string", default: "" }, // the log's verifier key; its name is the origin
    person: { type: "string", default: "" }, // identifier of a person who is not enrolled
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

const app = caller(options["app-token"]);
const recipient = caller(options["recipient-token"]);
const trust = { origin: options.vkey.split("+")[0]!, logKey: options.vkey };
const subject = Subject.fromPartial({ scheme: "mhid", value: options.person });
const question = Question.fromPartial({
  subject,
  actor: { organisation: "clinic-b" },
  holder: "hospital-a",
  purpose: "TREAT",
  action: "disclose",
  categories: ["CLIN.DX"],
});

function enrol(): Promise<EnrolSubjectResponse> {
  const request = EnrolSubjectRequest.fromPartial({ requestId: requestId(), subject, method: "app" });
  return call((done) => registry.enrolSubject(request, app, done));
}

function grant(): Promise<GrantConsentResponse> {
  const root = {
    effect: Effect.EFFECT_PERMIT,
    actors: ["clinic-b"],
    holders: ["hospital-a"],
    purposes: ["TREAT"],
    categories: ["CLIN"],
  };
  const consent = { kind: ConsentKind.CONSENT_KIND_CONSENT, root, language: "ko" };
  const statement = { $case: "attested", value: { consent, attestation: { method: "app" } } } as const;
  const request = GrantConsentRequest.fromPartial({ requestId: requestId(), subject, statement });
  return call((done) => consents.grantConsent(request, app, done));
}

function check(): Promise<CheckResponse> {
  return call((done) => policy.check(CheckRequest.fromPartial({ question }), recipient, done));
}

function authorize(): Promise<AuthorizeAccessResponse> {
  const request = AuthorizeAccessRequest.fromPartial({
    requestId: requestId(),
    asked: { $case: "question", value: question },
    waitFor: WaitFor.WAIT_FOR_PUBLISHED,
  });
  return call((done) => access.authorizeAccess(request, recipient, done));
}

function record(accessSeq: bigint): Promise<unknown> {
  const outcome = {
    status: TransferStatus.TRANSFER_STATUS_RECEIVED,
    categories: ["CLIN.DX"],
    resourceCount: 3,
    happenedTimeMs: BigInt(Date.now()),
  };
  const statement = { $case: "attested", value: outcome } as const;
  const request = RecordAccessRequest.fromPartial({ requestId: requestId(), subject, accessSeq, statement });
  return call((done) => access.recordAccess(request, recipient, done));
}

function revoke(consentId: string): Promise<RevokeConsentResponse> {
  const waitFor = WaitFor.WAIT_FOR_PUBLISHED;
  const statement = { $case: "attested", value: { note: "moved away" } } as const;
  const request = RevokeConsentRequest.fromPartial({ requestId: requestId(), subject, consentId, statement, waitFor });
  return call((done) => consents.revokeConsent(request, app, done));
}

async function readHistory(): Promise<GetHistoryResponse[]> {
  const request = GetHistoryRequest.fromPartial({ chain: { $case: "subject", value: subject } });
  const pieces: GetHistoryResponse[] = [];
  for await (const piece of ledger.getHistory(request, app)) pieces.push(piece as GetHistoryResponse);
  return pieces;
}

/** Write and read the life of one consent; return what was seen. */
async function live(): Promise<object> {
  const { tag } = await enrol();
  const enrolledTwice = await enrol().then(() => "no error", reasonOf);
  const { consentId } = await grant();
  const checked = await check();
  const authorized = await authorize();
  const receipt = authorized.receipt!;
  if (verifyReceipt(receipt.proof, receipt.leaf, trust).index !== receipt.index) throw new Error("another receipt");
  await record(authorized.accessSeq);
  const revoked = await revoke(consentId);
  const after = await check();
  const history = verifyHistory(evidenceOf(await readHistory(), tag), { ...trust, tag });
  return {
    enrolled_twice: enrolledTwice,
    check: outcomeToJSON(checked.decision!.outcome),
    authorize: outcomeToJSON(authorized.decision!.outcome),
    check_revoked: outcomeToJSON(after.decision!.outcome),
    published: revoked.receipt!.published,
    kinds: history.entries.map(({ event }) => KINDS.get(event.kind)!.name),
  };
}

try {
  console.log(JSON.stringify(await live()));
} catch (error) {
  console.log(JSON.stringify({ error: String(error) }));
  process.exitCode = 1;
}
