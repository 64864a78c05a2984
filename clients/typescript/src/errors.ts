/**
 * The errors of verification, by what is wrong with what was verified.
 *
 *     VerificationError     the bytes prove nothing; bad bytes cause no other error
 *      ├─ MalformedError        not the format it claims to be
 *      ├─ SignatureError        a signature does not verify, or its key was not in force
 *      │   └─ UnreadKeyError        or this version does not understand the entry that made it valid
 *      └─ ProofError            a proof does not lead to where it should
 *
 * Messages are lower case, begin with constant text and never contain an identifier of a subject. An error of the
 * caller, such as an impossible option, is a `TypeError`.
 */

/** Report that something does not verify. Only its subclasses are thrown. */
export class VerificationError extends Error {
  override name = "VerificationError";
}

/** Report that bytes or text are not the format they claim to be. */
export class MalformedError extends VerificationError {
  override name = "MalformedError";
}

/** Report that a signature does not verify, or that its key was not in force. */
export class SignatureError extends VerificationError {
  override name = "SignatureError";
}

/** Report that a key was not in force, as far as this version understands the entries that state keys. */
export class UnreadKeyError extends SignatureError {
  override name = "UnreadKeyError";
}

/** Report that a proof does not lead to where it should. */
export class ProofError extends VerificationError {
  override name = "ProofError";
}
