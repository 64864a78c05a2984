// Copyright The consentd Authors.
// SPDX-License-Identifier: Apache-2.0

import com.google.protobuf.ByteString;
import com.google.rpc.ErrorInfo;
import com.google.rpc.Status;
import io.github.consentd.v1.*;
import io.grpc.Channel;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import io.grpc.ClientInterceptors;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.List;
import java.util.stream.Collectors;

/**
 * Calls a daemon as a Java program would, with what plain protoc generates from proto/: enrols a person, grants a
 * consent, checks, authorizes an access, records its outcome, revokes the consent, and reads and verifies the history.
 * Prints one line of JSON and exits 0 if all went as it must, else 1.
 */
public final class Clients {
  private static final SecureRandom RANDOM = new SecureRandom();
  private static final int LEAF_SIZE = 122; // bytes of an event leaf: ledger-format.md, "Leaves"

  private final Log log;
  private final Channel app;
  private final Channel recipient;

  private Clients(Log log, Channel app, Channel recipient) {
    this.log = log;
    this.app = app;
    this.recipient = recipient;
  }

  /** Arguments: HOST:PORT, the log's vkey, an identifier that is not enrolled, tokens of application and recipient. */
  public static void main(String[] arguments) throws Exception {
    ManagedChannel channel = NettyChannelBuilder.forTarget(arguments[0]).usePlaintext().build();
    try {
      Log log = new Log(arguments[1]);
      System.out.println(new Clients(log, as(channel, arguments[3]), as(channel, arguments[4])).live(arguments[2]));
    } catch (Exception error) {
      System.out.println("{\"error\": \"" + error.toString().replaceAll("[\"\\\\\n]", " ") + "\"}");
      System.exit(1);
    } finally {
      channel.shutdownNow();
    }
  }

  private static Channel as(Channel channel, String token) {
    Metadata metadata = new Metadata();
    metadata.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
    return ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(metadata));
  }

  /** Write and read the life of one consent; return what was seen, as JSON. */
  private String live(String person) throws Exception {
    Subject subject = Subject.newBuilder().setScheme("mhid").setValue(person).build();
    var registry = RegistryServiceGrpc.newBlockingStub(app);
    EnrolSubjectResponse enrolled = registry.enrolSubject(enrol(subject));
    String enrolledTwice = "no error";
    try {
      registry.enrolSubject(enrol(subject));
    } catch (StatusRuntimeException error) {
      enrolledTwice = reasonOf(error);
    }
    GrantConsentResponse granted = grant(subject);
    Question question =
        Question.newBuilder()
            .setSubject(subject)
            .setActor(Actor.newBuilder().setOrganisation("clinic-b"))
            .setHolder("hospital-a")
            .setPurpose("TREAT")
            .setAction("disclose")
            .addCategories("CLIN.DX")
            .build();
    Outcome checked = check(question);
    AuthorizeAccessResponse authorized = authorize(question);
    record(subject, authorized.getAccessSeq());
    boolean published = revoke(subject, granted.getConsentId());
    Outcome after = check(question);
    List<String> kinds = verify(history(subject), enrolled.getTag());
    return String.format(
        "{\"enrolled_twice\": \"%s\", \"check\": \"%s\", \"authorize\": \"%s\", \"check_revoked\": \"%s\","
            + " \"published\": %s, \"kinds\": [%s]}",
        enrolledTwice, checked, authorized.getDecision().getOutcome(), after, published,
        kinds.stream().map(kind -> '"' + kind + '"').collect(Collectors.joining(", ")));
  }

  private static EnrolSubjectRequest enrol(Subject subject) {
    return EnrolSubjectRequest.newBuilder().setRequestId(requestId()).setSubject(subject).setMethod("app").build();
  }

  private GrantConsentResponse grant(Subject subject) {
    Provision root =
        Provision.newBuilder()
            .setEffect(Effect.EFFECT_PERMIT)
            .addActors("clinic-b")
            .addHolders("hospital-a")
            .addPurposes("TREAT")
            .addCategories("CLIN")
            .build();
    Consent consent =
        Consent.newBuilder().setKind(ConsentKind.CONSENT_KIND_CONSENT).setRoot(root).setLanguage("ko").build();
    return ConsentServiceGrpc.newBlockingStub(app)
        .grantConsent(
            GrantConsentRequest.newBuilder()
                .setRequestId(requestId())
                .setSubject(subject)
                .setAttested(
                    GrantStatement.newBuilder()
                        .setConsent(consent)
                        .setAttestation(Attestation.newBuilder().setMethod("app")))
                .build());
  }

  private Outcome check(Question question) {
    CheckRequest request = CheckRequest.newBuilder().setQuestion(question).build();
    return PolicyServiceGrpc.newBlockingStub(recipient).check(request).getDecision().getOutcome();
  }

  private AuthorizeAccessResponse authorize(Question question) {
    return AccessServiceGrpc.newBlockingStub(recipient)
        .authorizeAccess(
            AuthorizeAccessRequest.newBuilder().setRequestId(requestId()).setQuestion(question).build());
  }

  private void record(Subject subject, long accessSeq) {
    OutcomeStatement outcome =
        OutcomeStatement.newBuilder()
            .setStatus(TransferStatus.TRANSFER_STATUS_RECEIVED)
            .addCategories("CLIN.DX")
            .setResourceCount(3)
            .setHappenedTimeMs(System.currentTimeMillis())
            .build();
    AccessServiceGrpc.newBlockingStub(recipient)
        .recordAccess(
            RecordAccessRequest.newBuilder()
                .setRequestId(requestId())
                .setSubject(subject)
                .setAccessSeq(accessSeq)
                .setAttested(outcome)
                .build());
  }

  private boolean revoke(Subject subject, String consentId) {
    return ConsentServiceGrpc.newBlockingStub(app)
        .revokeConsent(
            RevokeConsentRequest.newBuilder()
                .setRequestId(requestId())
                .setSubject(subject)
                .setConsentId(consentId)
                .setAttested(RevokeStatement.newBuilder().setNote("moved away"))
                .setWaitFor(WaitFor.WAIT_FOR_PUBLISHED)
                .build())
        .getReceipt()
        .getPublished();
  }

  private List<GetHistoryResponse> history(Subject subject) {
    List<GetHistoryResponse> pieces = new ArrayList<>();
    Iterator<GetHistoryResponse> stream =
        LedgerServiceGrpc.newBlockingStub(app).getHistory(GetHistoryRequest.newBuilder().setSubject(subject).build());
    stream.forEachRemaining(pieces::add);
    return pieces;
  }

  /**
   * Verify the log's signature, the seal, and that the person's entries are in the tree and lead to the head of the
   * chain without a gap; return their kinds. The map and the authors' signatures are not verified.
   */
  private List<String> verify(List<GetHistoryResponse> pieces, ByteString tag) throws Exception {
    HistoryHead head = pieces.get(0).getHead();
    HistoryChain chain = pieces.get(1).getChain();
    Log.Tree tree = log.open(head.getCheckpoint().toByteArray());
    Log.verifyInclusion(head.getSeal().toByteArray(), tree.size() - 1, tree, hashes(head.getSealInclusionList()));
    List<LedgerEntry> entries = new ArrayList<>();
    for (GetHistoryResponse piece : pieces.subList(2, pieces.size())) {
      if (!piece.hasEntries()) break; // the next chain
      entries.addAll(piece.getEntries().getEntriesList());
    }
    List<String> kinds = new ArrayList<>();
    byte[] previous = new byte[32];
    for (LedgerEntry entry : entries) {
      byte[] leaf = entry.getLeaf().toByteArray();
      if (leaf.length != LEAF_SIZE
          || !tag.equals(entry.getLeaf().substring(10, 42))
          || ByteBuffer.wrap(leaf).getLong(42) != kinds.size() + 1
          || !Arrays.equals(leaf, 50, 82, previous, 0, 32)) {
        throw new SecurityException("the entry does not follow the one before");
      }
      verifyEntry(tree, entry);
      previous = Log.sha256("consentd/chain/v1\0".getBytes(StandardCharsets.US_ASCII), leaf);
      kinds.add(EntryKind.forNumber(leaf[1]).name().replace("ENTRY_KIND_", ""));
    }
    if (kinds.size() != chain.getCount() || !Arrays.equals(previous, chain.getHead().toByteArray())) {
      throw new SecurityException("the entries do not lead to the head of the chain");
    }
    return kinds;
  }

  private void verifyEntry(Log.Tree tree, LedgerEntry entry) throws Exception {
    GetInclusionProofRequest request =
        GetInclusionProofRequest.newBuilder().setIndex(entry.getIndex()).setTreeSize(tree.size()).build();
    GetInclusionProofResponse proof = LedgerServiceGrpc.newBlockingStub(app).getInclusionProof(request);
    Log.verifyInclusion(entry.getLeaf().toByteArray(), entry.getIndex(), tree, hashes(proof.getHashesList()));
  }

  private static List<byte[]> hashes(List<ByteString> list) {
    return list.stream().map(ByteString::toByteArray).collect(Collectors.toList());
  }

  private static ByteString requestId() {
    byte[] id = new byte[16];
    RANDOM.nextBytes(id);
    return ByteString.copyFrom(id);
  }

  /** Return the code and the ErrorInfo reason of an error. */
  private static String reasonOf(StatusRuntimeException error) throws Exception {
    Status status = StatusProto.fromThrowable(error);
    for (com.google.protobuf.Any detail : status.getDetailsList()) {
      if (detail.is(ErrorInfo.class) && detail.unpack(ErrorInfo.class).getDomain().equals("consentd")) {
        return error.getStatus().getCode().value() + " " + detail.unpack(ErrorInfo.class).getReason();
      }
    }
    throw error;
  }
}
