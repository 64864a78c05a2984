/**
 * The errors of verification, by what is wrong with the evidence.
 *
 *     VerificationError     the evidence is bad; the only thing bad bytes may raise
 *      ├─ MalformedError        not the format it claims to be
 *      ├─ SignatureError        a signature does not verify, or its key was not in force
 *      │   └─ UnreadKeyError        or was put in force by an entry that this version cannot read: it could not tell
 *      └─ ProofError            a proof does not lead to where it should
 *
 * Messages are lower case, begin with constant text and never hold an identifier of a subject. A caller's own mistake,
 * such as an option that cannot be, is a `TypeError`.
 */

/** Say that evidence is bad. Never thrown itself. */
export class VerificationError extends Error {
  override name = "VerificationError";
}

/** Say that bytes or text are not the format they claim to be. */
export class MalformedError extends VerificationError {
  override name = "MalformedError";
}

/** Say that a signature does not verify, or that its key was not in force. */
export class SignatureError extends VerificationError {
  override name = "SignatureError";
}

/** Say that a key was not in force by what could be read, and that not all was that puts keys in force. */
export class UnreadKeyError extends SignatureError {
  override name = "UnreadKeyError";
}

/** Say that a proof does not lead to where it should. */
export class ProofError extends VerificationError {
  override name = "ProofError";
}
