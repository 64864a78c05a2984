// Copyright The consentd Authors.
// SPDX-License-Identifier: Apache-2.0

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.KeyFactory;
import java.security.MessageDigest;
import java.security.PublicKey;
import java.security.Signature;
import java.security.spec.X509EncodedKeySpec;
import java.util.Arrays;
import java.util.Base64;
import java.util.List;

/** A log whose checkpoints are verified with one key: C2SP signed-note and tlog-checkpoint, RFC 6962. */
final class Log {
  /** What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410). */
  private static final byte[] KEY_PREFIX = {0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00};

  private static final byte ED25519 = 1;

  /** A tree that the log signed. */
  record Tree(long size, byte[] root) {}

  private final String origin;
  private final byte[] id;
  private final PublicKey key;

  /** Read a C2SP vkey: name, key id in hex, and base64 of the algorithm and the key. */
  Log(String vkey) throws Exception {
    String[] parts = vkey.split("\\+", 3);
    byte[] typed = Base64.getDecoder().decode(parts[2]);
    if (typed.length != 33 || typed[0] != ED25519) throw new IllegalArgumentException("not an Ed25519 vkey");
    origin = parts[0];
    id = ByteBuffer.allocate(4).putInt(Integer.parseUnsignedInt(parts[1], 16)).array();
    byte[] encoded = concat(KEY_PREFIX, Arrays.copyOfRange(typed, 1, 33));
    key = KeyFactory.getInstance("Ed25519").generatePublic(new X509EncodedKeySpec(encoded));
  }

  /** Verify the log's signature of a checkpoint, and return its tree. */
  Tree open(byte[] checkpoint) throws Exception {
    String note = new String(checkpoint, StandardCharsets.UTF_8);
    int end = note.lastIndexOf("\n\n") + 1;
    String text = note.substring(0, end);
    String[] lines = text.split("\n", -1);
    if (lines.length != 4 || !lines[0].equals(origin)) throw new SecurityException("not a checkpoint of this origin");
    for (String line : note.substring(end + 1).split("\n")) {
      if (!line.startsWith("\u2014 " + origin + " ")) continue;
      byte[] signed = Base64.getDecoder().decode(line.substring(line.lastIndexOf(' ') + 1));
      if (!Arrays.equals(signed, 0, 4, id, 0, 4)) continue;
      Signature signature = Signature.getInstance("Ed25519");
      signature.initVerify(key);
      signature.update(text.getBytes(StandardCharsets.UTF_8));
      if (!signature.verify(signed, 4, signed.length - 4)) throw new SecurityException("the log did not sign");
      return new Tree(Long.parseLong(lines[1]), Base64.getDecoder().decode(lines[2]));
    }
    throw new SecurityException("no signature of the log");
  }

  /** Verify that a leaf is in a tree: RFC 9162, section 2.1.3.2. */
  static void verifyInclusion(byte[] leaf, long index, Tree tree, List<byte[]> proof) throws Exception {
    long node = index;
    long last = tree.size() - 1;
    byte[] hash = sha256(new byte[] {0}, leaf);
    for (byte[] sibling : proof) {
      if (last == 0) throw new SecurityException("inclusion proof is too long");
      if ((node & 1) == 1 || node == last) {
        hash = sha256(new byte[] {1}, sibling, hash);
        while ((node & 1) == 0 && node != 0) {
          node >>= 1;
          last >>= 1;
        }
      } else {
        hash = sha256(new byte[] {1}, hash, sibling);
      }
      node >>= 1;
      last >>= 1;
    }
    if (index > tree.size() - 1 || last != 0 || !Arrays.equals(hash, tree.root())) {
      throw new SecurityException("inclusion proof does not lead to the root");
    }
  }

  static byte[] sha256(byte[]... parts) throws Exception {
    return MessageDigest.getInstance("SHA-256").digest(concat(parts));
  }

  static byte[] concat(byte[]... parts) {
    ByteBuffer all = ByteBuffer.allocate(Arrays.stream(parts).mapToInt(part -> part.length).sum());
    for (byte[] part : parts) all.put(part);
    return all.array();
  }
}
