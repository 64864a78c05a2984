"""The metrics: named and explained alike, counted apart, and closed to foreign label values."""

import re
import threading

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from consentd import metrics
from consentd.metrics import Counter, Gauge, Histogram, Metrics


def families(measured: Metrics) -> list[Metric]:
    """Return what a scraper sees, without the `_created` times that the library adds."""
    return [
        family
        for family in text_string_to_metric_families(measured.render(with_private=True).decode())
        if not family.name.endswith("_created")
    ]


def test_every_metric_is_named_and_explained_alike() -> None:
    measured = Metrics()
    attributes = [name for name in vars(measured) if not name.startswith("_")]
    seen = families(measured)
    assert len(seen) == len(attributes)
    assert {family.name for family in seen} == {f"consentd_{attribute}" for attribute in attributes}
    for family in seen:
        assert re.fullmatch(r"consentd(_[a-z]+)+", family.name)
        assert re.fullmatch(r"[A-Z0-9].*\.", family.documentation), family.name


def test_rendering_is_text_that_parses_and_holds_what_was_counted() -> None:
    measured = Metrics()
    measured.rpcs.inc("Check", "OK")
    measured.rpcs.inc("Check", "OK", by=2)
    measured.rpcs.inc("GrantConsent", "ABORTED")
    measured.rpc_seconds.observe(0.003, "Check")
    measured.pool_entries.set(7)
    assert metrics.CONTENT_TYPE.startswith("text/plain")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families(measured)
        for sample in family.samples
    }
    assert samples["consentd_rpcs_total", "OK", "Check"] == 3
    assert samples["consentd_rpcs_total", "ABORTED", "GrantConsent"] == 1
    assert samples["consentd_rpc_seconds_count", "Check"] == 1
    assert samples["consentd_rpc_seconds_bucket", "0.005", "Check"] == 1
    assert samples["consentd_rpc_seconds_bucket", "0.002", "Check"] == 0
    assert samples["consentd_pool_entries",] == 7
    assert samples["consentd_ready",] == 0


def test_a_counter_of_known_labels_is_there_before_its_first_event() -> None:
    measured = Metrics()
    measured.errors.begin("STORAGE")
    measured.clock_refusals.inc("ahead")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families(measured)
        for sample in family.samples
    }
    assert samples["consentd_errors_total", "STORAGE"] == 0
    assert samples["consentd_clock_refusals_total", "behind"] == 0
    assert samples["consentd_clock_refusals_total", "ahead"] == 1
    assert samples["consentd_witness_alarms_total", "larger"] == 0
    assert samples["consentd_decisions_total", "INDETERMINATE", "batch"] == 0


def test_figures_can_be_read_back() -> None:
    measured = Metrics()
    measured.decisions.inc("DENY", "batch", by=5)
    measured.checkpoints.inc()
    measured.batch_entries.observe(16)
    assert measured.value("consentd_decisions_total", outcome="DENY", via="batch") == 5
    assert measured.value("consentd_decisions_total", outcome="PERMIT", via="batch") == 0
    assert measured.value("consentd_checkpoints_total") == 1
    assert measured.value("consentd_batch_entries_sum") == 16


def test_two_daemons_in_a_process_count_apart() -> None:
    one, two = Metrics(), Metrics()
    one.ready.set(1)
    assert (one.value("consentd_ready"), two.value("consentd_ready")) == (1, 0)


PROPER: dict[str, tuple[str, ...]] = {
    "shortages": ("sign",),
    "operations": ("failed",),
    "id_tokens": ("expired",),
    "id_key_fetches": ("failed",),
    "rpcs": ("BatchCheck", "DATA_LOSS"),
    "rpc_seconds": ("AuthorizeAccess",),
    "errors": ("UNKNOWN_PURPOSE",),
    "repeats": ("conflicting",),
    "calls_refused": ("anybody", "late"),
    "refusals_parked": ("unknown",),
    "decisions": ("NO_CONSENT", "authorize"),
    "refusals": ("other",),
    "commit_seconds": ("table",),
    "clock_refusals": ("ahead",),
    "witness_answers": ("w2", "cosigned"),
    "witness_seconds": ("w12",),
    "witness_alarms": ("larger",),
    "quota_refusals": ("refusals",),
}
FOREIGN = ["ci-7d3f01", "900101-1234567", "홍길동", "", "OK\n", "x" * 80]


def use(metric: Counter | Gauge | Histogram, *values: str) -> None:
    if isinstance(metric, Counter):
        metric.inc(*values)
    elif isinstance(metric, Histogram):
        metric.observe(1.0, *values)


def test_every_label_takes_its_own_values_and_no_foreign_one() -> None:
    for name, metric in vars(Metrics()).items():
        if name.startswith("_") or isinstance(metric, Gauge):
            continue
        proper = PROPER.get(name, ())
        use(metric, *proper)
        for position in range(len(proper)):
            for foreign in FOREIGN:
                with pytest.raises(AssertionError, match="got a foreign value of label") as caught:
                    use(metric, *proper[:position], foreign, *proper[position + 1 :])
                assert not foreign.strip() or foreign not in str(caught.value)
        with pytest.raises(AssertionError, match="labels"):
            use(metric, *proper, "more")


def test_threads_lose_no_count() -> None:
    measured = Metrics()

    def count() -> None:
        for _ in range(2000):
            measured.decisions.inc("PERMIT", "check")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert measured.value("consentd_decisions_total", outcome="PERMIT", via="check") == 8000
