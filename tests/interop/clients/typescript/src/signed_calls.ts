/** Calls that a person signs with a key of their own: callers.md. */

import { CALL_SIGNATURE_HEADER, type PersonKey } from "@consentd/verify";
import { type Client, Metadata, type MethodDefinition } from "@grpc/grpc-js";

import { call } from "./calls.js";

/** A person's key, and the ledger that the signatures are for. */
export interface Signer {
  readonly key: PersonKey;
  readonly origin: string;
}

const asSent = (message: Buffer): Buffer => message;

/** Serialise a request once, and return it with the metadata that signs it. */
function signed<Request>(
  { key, origin }: Signer,
  method: Pick<MethodDefinition<Request, unknown>, "path" | "requestSerialize">,
  request: Request,
): [Buffer, Metadata] {
  const message = method.requestSerialize(request);
  const metadata = new Metadata();
  const header = key.signCall({ origin, method: method.path, message, timeMs: Date.now() });
  metadata.set(CALL_SIGNATURE_HEADER, Buffer.from(header));
  return [message, metadata];
}

/** Make a call as the person, and wait for its answer. */
export function callAs<Request, Response>(
  signer: Signer,
  client: Client,
  method: MethodDefinition<Request, Response>,
  request: Request,
): Promise<Response> {
  const [message, metadata] = signed(signer, method, request);
  return call((done) =>
    client.makeUnaryRequest<Buffer, Response>(
      method.path, asSent, method.responseDeserialize, message, metadata,
      (error, response) => done(error, response as Response),
    ),
  );
}

/** Make a call as the person whose answer is a stream; return all messages. */
export async function streamAs<Request, Response>(
  signer: Signer,
  client: Client,
  method: MethodDefinition<Request, Response>,
  request: Request,
): Promise<Response[]> {
  const [message, metadata] = signed(signer, method, request);
  const stream = client.makeServerStreamRequest<Buffer, Response>(
    method.path, asSent, method.responseDeserialize, message, metadata,
  );
  const pieces: Response[] = [];
  for await (const piece of stream) pieces.push(piece as Response);
  return pieces;
}
