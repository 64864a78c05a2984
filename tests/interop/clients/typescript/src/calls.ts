/** Calls of generated clients: promises, credentials, and the reasons of errors. */

import { randomBytes } from "node:crypto";

import { Metadata, type ServiceError, status } from "@grpc/grpc-js";

import { ErrorInfo } from "./google/rpc/error_details.js";
import { Status } from "./google/rpc/status.js";

/** Make a call, and wait for its answer. */
export function call<Response>(
  make: (done: (error: ServiceError | null, response: Response) => void) => unknown,
): Promise<Response> {
  return new Promise((resolve, reject) => make((error, response) => (error ? reject(error) : resolve(response))));
}

/** Return the metadata with which the owner of a token calls. */
export function caller(token: string): Metadata {
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${token}`);
  return metadata;
}

/** Return 16 random bytes. */
export function requestId(): Buffer {
  return randomBytes(16);
}

/** Return the code and the ErrorInfo reason of an error. */
export function reasonOf(error: ServiceError): string {
  const [packed] = error.metadata.get("grpc-status-details-bin");
  for (const detail of Status.decode(packed as Buffer).details) {
    if (detail.typeUrl !== "type.googleapis.com/google.rpc.ErrorInfo") continue;
    const info = ErrorInfo.decode(detail.value);
    if (info.domain === "consentd") return `${error.code} ${info.reason}`;
  }
  throw new Error(`without ErrorInfo: ${status[error.code]}`);
}
