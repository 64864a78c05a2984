"""Measure what mutual TLS costs: checks and accesses of a caller whom its certificate names, against one with a token.

Two daemons run in turn on one ledger, without TLS and with it, for several rounds. The ratios decide. Connections stay
open during a load, so handshakes do not count. Each load has four connections.
"""

from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.accesses import AUTHORIZE
from benchmarks.load import ClientTls, Loaded
from benchmarks.over_wire import CHECK, ROUNDS, Bench, check_answers, make_accesses, note_of
from benchmarks.questions import Asked, make_questions
from benchmarks.report import Row
from benchmarks.server import Server
from benchmarks.world import RELAY
from consentd.server.development_certificates import AUTHORITY, SERVER, make_development_certificates
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import policy_service_pb2 as ps

CERTIFICATES = "mtls"
"""Directory of the certificates, beside the configuration."""
BAR = 0.8


def measure_mtls(bench: Bench) -> list[Row]:
    """Measure rates with mutual TLS as a share of those without TLS."""
    config_file, files = _set_up(bench)
    plain: dict[str, Any] = {}
    named: dict[str, Any] = {"token": "", "tls": files}
    loads: dict[str, list[tuple[Loaded, Loaded]]] = {"check": [], "access": []}
    for number in range(ROUNDS):
        before, after = (
            _measure(bench, file, 60 + 2 * number + at, caller)
            for at, (file, caller) in enumerate(((bench.world.config_file, plain), (config_file, named)))
        )
        for name in loads:
            loads[name].append((before[name], after[name]))
    return [
        *_rows(bench, "Check, 32 in flight", loads["check"]),
        *_rows(bench, "AuthorizeAccess, 64 in flight", loads["access"]),
    ]


def _set_up(bench: Bench) -> tuple[Path, ClientTls]:
    """Make certificates, and the configuration of the same daemon with mutual TLS; return it and the client's files."""
    directory = bench.world.directory / CERTIFICATES
    make_development_certificates(directory, [RELAY])
    config_file = bench.world.directory / "consentd-mtls.toml"
    tls = {"cert_file": f"{SERVER}.pem", "key_file": f"{SERVER}.key", "client_ca_file": f"{AUTHORITY}.pem"}
    section = "".join(f'{option} = "{CERTIFICATES}/{file}"\n' for option, file in tls.items())
    config_file.write_text(bench.world.config_file.read_text(encoding="utf-8") + f"[grpc.tls]\n{section}", "utf-8")
    files = (directory / name for name in (f"{AUTHORITY}.pem", f"{RELAY}.pem", f"{RELAY}.key"))
    return config_file, ClientTls(**dict(zip(("ca_file", "cert_file", "key_file"), files, strict=True)))


def _measure(bench: Bench, config_file: Path, seed: int, caller: dict[str, Any]) -> dict[str, Loaded]:
    """Measure checks and accesses on one daemon, as one *caller*."""
    asked = make_questions(seed, bench.questions, bench.world.subjects)
    once: dict[str, Any] = {"in_flight": 64, "once": True, "seconds": 120, "warm_s": 0}
    with Server(config_file, bench.server_core) as server:
        checks = bench.run(server, CHECK, [ps.CheckRequest(question=question) for question, _ in asked], **caller)
        accesses = bench.run(server, AUTHORIZE, make_accesses(asked), **once, **caller)
    _verify(asked, checks, accesses)
    return {"check": checks, "access": accesses}


def _verify(asked: list[Asked], checks: Loaded, accesses: Loaded) -> None:
    """Fail unless each check was answered rightly, and each access was decided rightly and recorded."""
    answers = [(location, ps.CheckResponse.FromString(body)) for location, body in checks.answers]
    check_answers(asked, [(location, answer.decision.outcome) for location, answer in answers])
    recorded = [(location, ac.AuthorizeAccessResponse.FromString(body)) for location, body in accesses.answers]
    assert all(answer.HasField("receipt") for _, answer in recorded), "every access is recorded"
    check_answers(asked, [(location, answer.decision.outcome) for location, answer in recorded])


def _rows(bench: Bench, name: str, rounds: list[tuple[Loaded, Loaded]]) -> list[Row]:
    """Return the ratio of rates, and that of processor times, which other programs on the machine disturb less."""
    rates = ", ".join(f"{plain.rate:,.0f} → {named.rate:,.0f}" for plain, named in rounds)
    times = ", ".join(f"{_cpu_us(plain):,.0f} → {_cpu_us(named):,.0f}" for plain, named in rounds)
    where = "server on one core" if bench.server_core is not None else "not pinned"
    common: dict[str, Any] = {
        "case": "mtls", "unit": "×", "sample_unit": "×",
        "boundary": f"gRPC on loopback, TLS 1.3 with the client's certificate, {where}",
    }  # fmt: skip
    ratios = [named.rate / plain.rate for plain, named in rounds]
    costs = [_cpu_us(named) / _cpu_us(plain) for plain, named in rounds]
    plain, named = rounds[-1]
    return [
        Row(**common, name=f"{name}: rate with mutual TLS ÷ without TLS", value=median(ratios), at_least=BAR,
            samples=ratios, note=f"{rates}/s; without TLS: {note_of(plain)}; with: {note_of(named)}"),
        Row(**common, name="… processor time of the server a call, with ÷ without", value=median(costs),
            at_most=1 / BAR, samples=costs, note=f"{times} µs"),
    ]  # fmt: skip


def _cpu_us(loaded: Loaded) -> float:
    return loaded.server_cpu_s / len(loaded.answers) * 1e6
