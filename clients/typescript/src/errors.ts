/**
 * The errors of verification, by what is wrong with what was verified.
 *
 *     VerificationError     the bytes prove nothing; bad bytes cause no other error
 *      ├─ MalformedError        not the format it claims to be
 *      ├─ SignatureError        a signature does not verify, or its key was not in force
 *      │   └─ UnknownKeyError       or the key is not known here: another log key than the pinned one, or a key that an
 *      │                            entry of a later version may have made valid. Nothing is determined
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

/** Report that a signature is by a key that is not known here, so nothing is determined: a log key that is not pinned,
 * or a key that an entry of a later version may have put in force. */
export class UnknownKeyError extends SignatureError {
  override name = "UnknownKeyError";
}

/** Report that a proof does not lead to where it should. */
export class ProofError extends VerificationError {
  override name = "ProofError";
}
