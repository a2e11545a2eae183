"""Rules with a memory: who published what, how two admins do not undo each other, and a node that follows without a restart."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import config
from node.assembly import House
from node.audit import AuditEvent
from node.domain import CleanUid, Role, StudyRef, WrittenObject
from node.errors import RevisionRefused, RulesInvalid
from node.gateway import Gateway
from node.ledger.payload import Made
from node.ledger.rule_revisions import RevisionState, RuleRevisions
from node.router import Needs
from node.rules.book import Known, RuleBook, written_out
from node.testing import a_study, clean_study, write_study
from tests.rooms.databases import postgres, postgres_server, sqlite

KNOWN = Known(
    pipelines={"covid_ct": Needs(takes="volume", modalities=("CT",), findings=("infection",)), "brain_mri": Needs(takes="volume")},
    destinations=("pacs", "ward"),
)


def rules(*modalities: str, run: str = "covid_ct") -> str:
    return "rules:\n" + "".join(f"  - {{name: {m}, when: {{modality: {m}}}, run: {run}, send_to: pacs}}\n" for m in modalities)


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(minutes=1)
        return self.now


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def revisions(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RuleRevisions]:
    engine = sqlite(tmp_path) if request.param == "sqlite" else postgres(request.getfixturevalue("server"))
    yield RuleRevisions(engine, Clock())
    engine.dispose()


@pytest.fixture
def told() -> list[AuditEvent]:
    return []


@pytest.fixture
def book(tmp_path: Path, told: list[AuditEvent]) -> RuleBook:
    return RuleBook(RuleRevisions(sqlite(tmp_path), Clock()), told.append, lambda: KNOWN)


@pytest.fixture
def strict(tmp_path: Path, told: list[AuditEvent]) -> RuleBook:
    """Where a second person approves."""
    return RuleBook(RuleRevisions(sqlite(tmp_path), Clock()), told.append, lambda: KNOWN, second_person=True)


# --- publishing and rolling back ------------------------------------------------------------------------------------------
def test_what_is_published_is_in_force_and_history_says_who_when_and_why(book: RuleBook, told: list[AuditEvent]) -> None:
    book.publish(rules("CT"), who="eve", reason="the first one")
    book.publish(rules("CT", "MR"), who="adam", reason="MR from now on")

    in_force, history = book.in_force(), book.history()

    assert in_force is not None
    assert ([rule.name for rule in in_force.rules], in_force.revision) == (["CT", "MR"], 2)
    assert [(one.number, one.base, one.who, one.reason) for one in history] == [
        (1, 0, "eve", "the first one"),
        (2, 1, "adam", "MR from now on"),
    ]
    assert history[0].at < history[1].at
    assert [(event.what, event.who, event.facts["from"], event.facts["changes"]) for event in told] == [
        ("rules 1: published", "eve", "none", "1 added"),
        ("rules 2: published", "adam", f"1 {history[0].sha256[:12]}", "1 added"),
    ]


def test_a_rollback_is_a_new_revision_with_the_earlier_text(book: RuleBook, told: list[AuditEvent]) -> None:
    book.publish(rules("CT"), who="eve", reason="first")
    book.publish(rules("MR"), who="eve", reason="a mistake")

    made = book.rollback(1, who="adam", reason="CT is missing")

    in_force = book.in_force()
    assert in_force is not None
    assert (made.number, made.text, in_force.revision) == (3, rules("CT"), 3)
    assert (told[-1].what, told[-1].facts["reason"]) == ("rules 3: rolled back to 1", "CT is missing")
    assert told[-1].facts["from"].startswith("2 ")


def test_the_second_of_two_admins_who_edit_at_once_is_told_and_nothing_is_half_done(book: RuleBook) -> None:
    book.publish(rules("CT"), who="eve", reason="first")
    mine = yours = written_out(book.get(1))
    book.publish(mine.replace("CT", "MR"), who="eve", reason="mine")

    with pytest.raises(RevisionRefused, match=r"made from revision 1, and revision 2 by eve is active now"):
        book.publish(yours.replace("CT", "PT"), who="adam", reason="yours")
    with pytest.raises(RevisionRefused, match="made from revision 1"):
        book.rollback(1, who="adam", reason="back", base=1)

    assert len(book.history()) == 2
    rebased = book.publish(rules("MR", "PT"), who="adam", reason="both", base=2)
    assert (rebased.number, rebased.base) == (3, 2)


def test_a_rules_file_that_can_not_be_written_into_the_trail_is_not_taken(tmp_path: Path) -> None:
    def fails(_event: AuditEvent) -> None:
        raise OSError("no space left")

    book = RuleBook(RuleRevisions(sqlite(tmp_path), Clock()), fails, lambda: KNOWN)

    with pytest.raises(OSError, match="no space left"):
        book.take_file(rules("CT"), "rules.yaml")

    assert book.history() == []


def test_of_many_who_publish_in_the_same_moment_one_does(revisions: RuleRevisions) -> None:
    first = revisions.publish(rules("CT"), number=1, base=0, who="eve", reason="first")
    answers: list[str] = []

    def publish(number: int) -> None:
        try:
            revisions.publish(rules(f"M{number}"), number=2, base=first.number, who=f"admin {number}", reason="mine")
            answers.append("published")
        except RevisionRefused:
            answers.append("refused")

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answers) == ["published"] + ["refused"] * 5
    assert [one.number for one in revisions.history()] == [1, 2]


def test_what_is_wrong_is_not_published_and_each_rule_says_its_line_and_column(book: RuleBook) -> None:
    wrong = "rules:\n  - {name: a, when: {modality: CT}, run: covid_ct}\n  - name: b\n    when: {modlity: CT}\n    run: covid_ct\n  - name: c\n    run: x\n"

    problems = book.validate(wrong)

    assert [(one.line, one.column) for one in problems] == [(4, 12), (6, 5)]
    assert problems[0].what.startswith("unknown condition 'modlity'; known: age_years")
    assert "when or any_of" in problems[1].what
    with pytest.raises(RulesInvalid):
        book.publish(wrong, who="eve", reason="a try")
    assert book.history() == []


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "x" * 500])
def test_nobody_publishes_without_a_reason(book: RuleBook, reason: str) -> None:
    with pytest.raises(RevisionRefused, match="say why"):
        book.publish(rules("CT"), who="eve", reason=reason)


def test_the_same_rules_again_are_no_revision(book: RuleBook) -> None:
    book.publish(rules("CT"), who="eve", reason="first")

    with pytest.raises(RevisionRefused, match="nothing would change"):
        book.publish(rules("CT"), who="eve", reason="again")


def test_a_text_of_ten_megabytes_or_of_aliases_within_aliases_is_refused(book: RuleBook) -> None:
    billion = "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(50))

    for text, said in (("# " + "x" * 10 * 2**20, "larger than 1 MiB"), (billion, "aliases")):
        assert said in book.validate(text)[0].what
        with pytest.raises(RulesInvalid, match=said):
            book.publish(text, who="eve", reason="a try")


def test_a_kept_draft_does_nothing_need_not_be_right_and_knows_what_it_was_made_from(book: RuleBook, told: list[AuditEvent]) -> None:
    first = book.publish(rules("CT"), who="os:eve", reason="a beginning")
    book.publish(rules("CT", "MR"), who="os:eve", reason="heads as well")
    draft = book.keep("rules: [", who="os:adam", reason="to go on tomorrow", base=first.number)

    assert (draft.state, draft.base, draft.watched) == (RevisionState.DRAFT, first.number, False)
    assert (book.active().number, book.watched()) == (2, None)
    assert told[-1].what == f"rules {draft.number}: draft kept"
    with pytest.raises(RevisionRefused, match="never published"):
        book.rollback(draft.number, who="os:adam", reason="by mistake")
    for empty in ("  ", "x" * (2**20 + 1)):
        with pytest.raises(RevisionRefused, match="at most 1 MiB"):
            book.keep(empty, who="os:adam", reason="to go on tomorrow")


def test_the_difference_of_two_revisions_is_told_by_line_and_by_rule(book: RuleBook) -> None:
    book.publish(rules("CT", "MR", "PT"), who="eve", reason="first")
    book.publish(rules("CT", "PT", "MR", "US").replace("modality: CT", "modality: [CT, PT]"), who="eve", reason="second")

    found = book.diff(1, 2)

    assert (found.added, found.removed, found.changed, found.moved) == (("US",), (), ("CT",), True)
    assert "+  - {name: US, when: {modality: US}, run: covid_ct, send_to: pacs}" in found.lines
    assert found.in_words == "1 added, 1 changed, another order"


# --- a second person ----------------------------------------------------------------------------------------------------
def test_where_a_second_person_approves_a_proposal_waits_for_another_one(strict: RuleBook, told: list[AuditEvent]) -> None:
    proposal = strict.publish(rules("CT"), who="eve", reason="first")
    assert (proposal.state, strict.in_force()) == (RevisionState.PROPOSED, None)

    with pytest.raises(RevisionRefused, match="another person"):
        strict.approve(1, who="eve")
    approved = strict.approve(1, who="adam")

    in_force = strict.in_force()
    assert in_force is not None
    assert (approved.state, approved.who, approved.approved_by, in_force.revision) == (RevisionState.PUBLISHED, "eve", "adam", 1)
    assert [(event.what, event.who) for event in told] == [("rules 1: proposed", "eve"), ("rules 1: approved and published", "adam")]
    with pytest.raises(RevisionRefused, match="no proposal"):
        strict.approve(1, who="adam")


def test_a_proposal_that_others_overtook_is_refused_until_it_is_made_anew(strict: RuleBook) -> None:
    strict.publish(rules("CT"), who="eve", reason="mine")
    strict.publish(rules("MR"), who="adam", reason="yours")
    strict.approve(2, who="eve")

    with pytest.raises(RevisionRefused, match="made from revision 0"):
        strict.approve(1, who="adam")

    assert strict.get(1).state is RevisionState.PROPOSED


def test_a_rollback_needs_no_second_person(strict: RuleBook) -> None:
    for number, modality in ((1, "CT"), (2, "MR")):
        strict.publish(rules(modality), who="eve", reason="next")
        strict.approve(number, who="adam")

    assert strict.rollback(1, who="eve", reason="MR goes wrong").state is RevisionState.PUBLISHED
    with pytest.raises(RevisionRefused, match="no revision 9"):
        strict.rollback(9, who="eve", reason="further back")


# --- the file of the settings -------------------------------------------------------------------------------------------
def numbers(book: RuleBook) -> list[tuple[int, str]]:
    return [(one.number, one.who) for one in book.history()]


def test_the_settings_file_is_the_first_revision_and_a_changed_file_the_next(book: RuleBook) -> None:
    for text in (rules("CT"), rules("CT"), rules("MR"), rules("MR")):
        book.take_file(text, "rules.yaml")

    assert numbers(book) == [(1, "settings file"), (2, "settings file")]


def test_a_file_that_changed_does_not_undo_what_somebody_published(book: RuleBook, caplog: pytest.LogCaptureFixture) -> None:
    book.take_file(rules("CT"), "rules.yaml")
    book.publish(rules("MR"), who="eve", reason="by hand")

    book.take_file(rules("CT"), "rules.yaml")  # unchanged
    assert not caplog.records
    book.take_file(rules("PT"), "rules.yaml")

    assert numbers(book) == [(1, "settings file"), (2, "eve")]
    assert "revision 2 was published by eve" in str(caplog.records[-1].__dict__["because"])


def test_a_file_that_says_what_was_published_counts_again(book: RuleBook) -> None:
    book.take_file(rules("CT"), "rules.yaml")
    book.publish(rules("MR"), who="eve", reason="by hand")
    book.take_file(rules("MR"), "rules.yaml")  # brought in line
    book.take_file(rules("PT"), "rules.yaml")

    assert numbers(book) == [(1, "settings file"), (2, "eve"), (3, "settings file")]


def test_a_broken_file_stops_the_first_start_and_no_later_one(book: RuleBook) -> None:
    with pytest.raises(RulesInvalid, match=r"rules\.yaml, line 2"):
        book.take_file(rules("CT", run="nothing"), "rules.yaml")
    assert book.history() == []

    book.take_file(rules("CT"), "rules.yaml")
    book.take_file(rules("CT", run="nothing"), "rules.yaml")
    assert numbers(book) == [(1, "settings file")]


def test_a_changed_file_is_a_proposal_where_a_second_person_approves(strict: RuleBook) -> None:
    strict.take_file(rules("CT"), "rules.yaml")
    strict.take_file(rules("MR"), "rules.yaml")

    assert [one.state for one in strict.history()] == [RevisionState.PUBLISHED, RevisionState.PROPOSED]


# --- in a node ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def open_house(tmp_path: Path) -> Iterator[Callable[[], House]]:
    """Opens a node of the test's own, as often as there are processes."""
    (tmp_path / "rules.yaml").write_text(
        "rules:\n  - {name: chest, when: {modality: CT, slice_count: {min: 3}}, run: covid_ct, send_to: pacs}\n"
    )
    settings = config.load(
        data_dir=tmp_path / "data",
        rules=tmp_path / "rules.yaml",
        intake={"settle_after_s": 0.0, "min_free_mb": 1},
        deidentification={"leak_scan": False, "text_detection": "off"},
        destinations={name: {"kind": "folder", "path": str(tmp_path / name)} for name in ("pacs", "ward")},
    )
    opened: list[House] = []

    def house() -> House:
        opened.append(House(settings))
        return opened[-1]

    yield house
    for one in opened:
        one.close()


def received(home: House, gateway: Gateway, folder: Path, number: int) -> StudyRef:
    """A chest CT came and was routed."""
    known = set(home.intake.refs())
    write_study(a_study("CT", slices=6, study=number, rows=32, patches=0), folder / str(number))
    home.take_folder(folder / str(number))
    assert gateway.settle() == 1
    [ref] = set(home.intake.refs()) - known
    return ref


def test_a_running_gateway_follows_what_another_process_publishes_and_rolls_back(open_house: Callable[[], House], tmp_path: Path) -> None:
    node, admin = open_house(), open_house()
    node.check()
    gateway = Gateway(node)

    first = received(node, gateway, tmp_path, 1)
    text = "rules:\n  - {name: all CT, when: {modality: CT, slice_count: {min: 1}}, run: covid_ct, send_to: ward, priority: stat}\n"
    admin.rule_book.publish(text, who="eve", reason="to the ward")
    second = received(node, gateway, tmp_path, 2)
    admin.rule_book.rollback(1, who="eve", reason="not to the ward")
    third = received(node, gateway, tmp_path, 3)

    decided = [node.decisions.of_study(ref.study)[0] for ref in (first, second, third)]
    assert [(one["rules_revision"], one["rule"], one["pipeline"]) for one in decided] == [
        (1, "chest", "covid_ct"),
        (2, "all CT", "covid_ct"),
        (3, "chest", "covid_ct"),
    ]
    assert all("modality CT is one of CT" in one["reasons"] for one in decided)
    [tried] = admin.try_rules(text.replace("min: 1", "min: 9"), first.study) or []
    assert (tried["met"], tried["reasons"][-1]["words"]) == (False, "slice_count 6 is not at least 9")
    assert admin.try_rules(text, "2.25.404") is None
    assert [group.in_words for group in admin.replay(text, 1).groups.values()] == ["all CT → covid_ct: 3 CT series otherwise"]
    assert [node.jobs.of_study(ref.study)[0].route.destinations for ref in (first, second, third)] == [("pacs",), ("ward",), ("pacs",)]
    assert [record["facts"]["to"][0] for record in node.trail.tail(99) if str(record["what"]).startswith("rules ")] == ["1", "2", "3"]
    assert node.overview()["rules_revision"] == 3


def test_rules_that_lost_their_destination_are_not_used_and_the_good_ones_stay(
    open_house: Callable[[], House], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = open_house()
    node.check()
    assert node.rules.revision == 1
    poorer = House(node.settings.model_copy(update={"destinations": {"pacs": node.settings.destinations["pacs"]}}))
    assert poorer.rules.revision == 1
    node.rule_book.publish(node.rules.text.replace("pacs", "ward"), who="eve", reason="to the ward")

    assert (poorer.rules.revision, poorer.rules.revision, node.rules.revision) == (1, 1, 2)
    assert len([one for one in caplog.records if "not used" in one.message]) == 1
    poorer.close()


def test_a_watched_draft_is_evaluated_beside_the_active_rules_and_does_nothing(open_house: Callable[[], House], tmp_path: Path) -> None:
    node = open_house()
    node.check()
    gateway = Gateway(node)
    draft = node.rule_book.watch(
        "rules:\n  - {name: chest, when: {modality: CT, slice_count: {min: 20}}, run: covid_ct, send_to: pacs}\n",
        who="eve",
        reason="thin ones",
    )

    ref = received(node, gateway, tmp_path, 1)
    same = node.rule_book.watch(node.rules.text + "# the same\n", who="eve", reason="nothing new")
    received(node, gateway, tmp_path, 2)

    [found] = node.watched.of_draft(draft.number)
    assert (found["kind"], found["rule"], found["study"], found["active"]) == ("fewer", "chest", ref.study, 1)
    assert found["because"] == "slice_count 6 is not at least 20"
    assert (node.watched.of_draft(same.number), node.watched.studies(same.number)) == ([], 1)
    assert len(node.jobs.of_study(ref.study)) == 1
    assert node.rule_book.stop_watching(who="eve") == same.number
    assert node.rule_book.watched() is None
    gateway.purge(CleanUid(ref.study))
    assert (node.watched.of_draft(draft.number), node.headers.of_study(ref.study)) == ([], None)


def test_a_job_of_the_night_waits_and_one_that_found_something_is_sent_on(open_house: Callable[[], House], tmp_path: Path) -> None:
    node = open_house()
    node.check()
    hour = node.local_now() + timedelta(hours=2)
    window = f"{hour:%H}:00-{hour + timedelta(hours=1):%H}:00"
    text = f"""rules:
  - name: chest at night
    when: {{modality: CT, slice_count: {{min: 3}}}}
    run: covid_ct
    between: "{window}"
    send_to: pacs
    send_if: {{finding: infection, probability: {{min: 0.5}}, send_to: ward}}
"""
    node.rule_book.publish(text, who="eve", reason="at night")
    gateway = Gateway(node)

    ref = received(node, gateway, tmp_path, 1)

    [job] = node.jobs.of_study(ref.study)
    assert job.not_before is not None
    assert f"{job.not_before.astimezone(node.local_now().tzinfo):%H:%M}" == window[:5]
    assert node.jobs.claim("a worker", 60) is None
    [sends] = job.route.send_if
    assert (sends.finding, sends.low, sends.destinations) == ("infection", 0.5, ("ward",))


@pytest.mark.parametrize(("probability", "sent_to"), [(0.8, {"pacs", "ward"}), (0.2, {"pacs"}), (None, {"pacs"})])
def test_a_result_is_sent_on_by_what_was_found(
    open_house: Callable[[], House], tmp_path: Path, probability: float | None, sent_to: set[str]
) -> None:
    node = open_house()
    node.check()
    sends = "send_if: {finding: infection, probability: {min: 0.5}, send_to: ward}"
    node.rule_book.publish(node.rules.text.replace("send_to: pacs", f"send_to: pacs, {sends}"), who="eve", reason="to the ward")
    gateway = Gateway(node)
    received(node, gateway, tmp_path, 1)

    job = node.jobs.claim("a worker", 60)
    assert job is not None
    report = WrittenObject(
        job=job.id, study=job.study.study, role=Role.SR, sop_class_uid="1.2.3", sop_instance_uid="1.2.3.4", path=node.results / "report.dcm"
    )
    findings = [{"name": "infection", "probability": probability, "present": bool(probability)}]
    node.jobs.done(job, [Made(object=report, sha256="0" * 64)], {"findings": findings})
    gateway.hand_over()

    assert {entry.destination for entry in node.outbox.entries()} == sent_to
    said = [str(record.get("facts")) for record in node.trail.of_study(job.study.study)]
    assert any("infection with a probability of 0.5 to 1" in one for one in said) is ("ward" in sent_to)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("send_if: {finding: infektion, present: true, send_to: ward}", "unknown finding 'infektion'; known: infection"),
        ("send_if: {finding: infection, send_to: ward}", "give probability"),
        ("send_if: {finding: infection, probability: {min: 2}, send_to: ward}", "between 0 and 1"),
        ("send_if: {finding: infection, probability: {min: 0.9, max: 0.1}, send_to: ward}", "min is larger"),
        ("send_if: {finding: infection, present: yes please, send_to: ward}", "true or false"),
        ("send_if: {finding: infection, present: true, send_to: cellar}", "unknown destination 'cellar'"),
        ("send_if: {finding: infection, present: true, send_to: []}", "at least one destination"),
        ("between: 20:00", "two times of a day"),
        ('between: ["20:00-06:00", 7]', "between"),
    ],
)
def test_hours_and_findings_are_typed_too(book: RuleBook, line: str, said: str) -> None:
    [problem] = book.validate(f"rules:\n  - name: a\n    when: {{modality: CT}}\n    run: covid_ct\n    {line}\n")

    assert said in problem.what
    assert problem.line == 5


def test_a_rule_may_run_several_pipelines(book: RuleBook) -> None:
    text = "rules:\n  - {name: a, when: {modality: CT}, run: [covid_ct, brain_mri], send_to: pacs}\n"

    [rule] = book.read(text).rules

    assert rule.run == ("covid_ct", "brain_mri")
    assert "named twice" in book.validate(text.replace("brain_mri", "covid_ct"))[0].what


def test_a_draft_is_tried_on_one_study(book: RuleBook, tmp_path: Path) -> None:
    [answer] = book.try_on(rules("CT"), clean_study(a_study("CT", slices=3, rows=32, patches=0), tmp_path / "clean"))

    assert (answer["met"], answer["reasons"]) == (True, [{"key": "modality", "met": True, "words": "modality CT is one of CT"}])
