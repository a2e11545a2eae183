"""What the steps of a study's story say, in words and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from node.codes import chance_said, number_said, unit_said
from node.ledger.job_list import WholeJob
from node.ledger.shown import Delivery
from node.web.api.story import Decided, Story
from node.web.ui.markup import Html, at, chip, counted, facts, joined, more, size, table, tag, took
from node.web.ui.way import Step

CHANNELS = {"dimse": "C-STORE", "stow": "STOW-RS", "orthanc": "Orthanc", "folder": "a folder"}
ACTIONS = {"X": "removed", "Z": "emptied", "D": "replaced by a dummy", "U": "UIDs replaced", "C": "cleaned", "K": "kept"}
STATES = {"RECEIVING": "arriving", "SETTLED": "settled", "PROCESSED": "processed", "QUARANTINED": "in quarantine"}
_STATE_KINDS = {"PROCESSED": "good", "QUARANTINED": "bad"}


def head(told: Story) -> Html:
    """Who it is on the clean side, and how far it came."""
    card, state = told.card, told.arrival.state
    name = card.pseudonym if card and card.pseudonym else "Not de-identified"
    line = [chip(STATES.get(state, state), _STATE_KINDS.get(state, "busy"))]
    if card and card.modalities:
        line.append(
            tag("span", f"{', '.join(card.modalities)}, {counted(card.series, 'series', 'series')}, {counted(card.instances, 'image')}")
        )
    line.append(tag("span", "came ", at(told.arrival.arrived_at)))
    return tag(
        "div",
        tag("p", name, class_="pseudonym"),
        tag("p", joined(line, " · "), class_="line"),
        tag("p", "Clean UID ", tag("code", told.arrival.study), class_="soft"),
    )


def arrived(told: Story) -> Html:
    """Through which door, from whom, how much."""
    one = told.arrival
    total = sum(each.instances for each in one.revisions)
    told_of = f"{total:,} of {one.expected:,}" if one.expected else f"{total:,}"
    rows = {
        "Door": CHANNELS.get(one.channel, one.channel),
        "From": one.calling_ae,
        "To": one.called_ae,
        "Peer": one.peer,
        "Instances": f"{told_of}, {size(sum(each.bytes for each in one.revisions))}",
        "Last one": at(one.last_at) if one.last_at != one.arrived_at else "",
    }
    parts = [[each.revision or "not settled", each.instances, size(each.bytes)] for each in one.revisions]
    several = table(("Revision", "Instances", "Size"), parts, caption="What came with each settling") if len(parts) > 1 else Html("")
    return joined([facts(rows), several])


def settled(told: Story) -> Html:
    """Why it was held to be complete."""
    if told.arrival.settled_at is None:
        return tag("p", "More may come; it is held to be complete when it has been quiet for a while.", class_="soft")
    return tag("p", f"Held to be complete: {told.arrival.settled_because}.")


def deidentified(told: Story) -> Step:
    """The signed report, or why it was refused."""
    name, title = "deidentified", "De-identification"
    if told.refused:
        one = told.refused
        said = joined([tag("p", chip("in quarantine", "bad"), " ", tag("code", one.kind)), tag("p", one.reason)])
        return Step(name, title, one.refused_at, "bad", said)
    proof = told.deidentified
    if proof is None:
        waits = "Not yet." if told.arrival.state in ("RECEIVING", "SETTLED") else "No report: the leak scan is switched off."
        return Step(name, title, None, "busy" if waits == "Not yet." else "plain", tag("p", waits, class_="soft"))
    actions: Mapping[str, int] = proof.done.get("actions") or {}
    images: Mapping[str, int] = proof.done.get("images") or {}
    rows = {
        "Attributes": ", ".join(f"{count:,} {ACTIONS.get(letter, letter)}" for letter, count in actions.items() if count),
        "Pixels": ", ".join(f"{count:,} {look}" for look, count in images.items()),
        "Masked": counted(proof.done["masked_boxes"], "box", "boxes") if proof.done.get("masked_boxes") else "",
        "Faces": counted(proof.done["defaced"], "volume") if proof.done.get("defaced") else "",
        "Leak scan": joined(
            [
                chip(counted(proof.hits, "hit"), "bad" if proof.hits else "good"),
                f" {proof.leak_scan.get('patterns', 0):,} patterns in {counted(proof.instances, 'file')}",
            ]
        ),
        "Signature": joined([chip(proof.signature), " ", tag("code", proof.signer[:16], title=proof.signer)]),
    }
    options = [tag("li", option.replace("_", " ")) for option in proof.profile.get("options") or ()]
    searched = [[kind, count] for kind, count in (proof.leak_scan.get("searched_for") or {}).items()]
    detail = [
        more("Profile and options", tag("p", proof.profile.get("edition", "")), tag("ul", *options)),
        more(
            "What the leak scan searched for",
            table(("Kind", "Values"), searched, caption="Searched for"),
            tag("p", f"Not searched: {proof.leak_scan.get('not_searched', '')}", class_="soft"),
        ),
    ]
    good = proof.signature == "good" and not proof.hits
    return Step(name, title, _moment(proof.made_at), "good" if good else "bad", joined([facts(rows), *detail]))


def routed(told: Story) -> Step:
    """Each rule and each series: met or not, and why."""
    latest = max((one.revision for one in told.decisions), default=0)
    now = [one for one in told.decisions if one.revision == latest]
    met = [one for one in now if one.met]
    if not now:
        return Step("routed", "Routes", None, "plain", tag("p", "The rules were not asked yet.", class_="soft"))
    by_series = {one.series: None for one in now}
    pieces = [
        tag(
            "p",
            f"{counted(len(met), 'route')} from {counted(len({one.rule for one in now}), 'rule')} and {counted(len(by_series), 'series', 'series')}.",
        )
    ]
    pieces += [_decision(one) for one in sorted(now, key=lambda one: not one.met)]
    return Step("routed", "Routes", now[0].decided_at, "good" if met else "plain", joined(pieces))


def _decision(one: Decided) -> Html:
    summary = joined(
        [chip("met", "good") if one.met else chip("not met", "plain"), f" {one.rule}", tag("span", f" → {one.pipeline}", class_="soft")]
    )
    reasons = tag("ul", *(tag("li", reason) for reason in one.reasons))
    return more(summary, reasons, tag("p", "Series ", tag("code", one.series), class_="soft"))


def jobs(told: Story) -> Step:
    """Each model that was asked: state, time, attempts, version and digest."""
    if not told.jobs:
        return Step("jobs", "Jobs", None, "plain", tag("p", "No job.", class_="soft"))
    states = Counter(job.state for job in told.jobs)
    kind = "bad" if states["CANCELED"] else ("busy" if states["SCHEDULED"] + states["IN PROGRESS"] else "good")
    return Step(
        "jobs",
        "Jobs",
        max((job.ended_at for job in told.jobs if job.ended_at), default=None),
        kind,
        joined([_job(job) for job in told.jobs]),
    )


def _job(job: WholeJob) -> Html:
    digest = str((job.result.get("model") or {}).get("digest") or "")
    seconds: Mapping[str, float] = job.result.get("seconds") or {}
    rows = {
        "State": joined([chip(job.state), " in the shadow: delivered nowhere" if job.shadow else ""]),
        "Because": job.reason,
        "Took": joined(
            [
                took(job.seconds),
                f" ({', '.join(f'{step} {value:.1f} s' for step, value in seconds.items() if value >= 0.05)})"
                if job.seconds and seconds
                else "",
            ]
        ),
        "Attempts": job.attempts if job.attempts != 1 else "",
        "Weights": tag("code", digest[:16], title=digest) if digest else "",
        "Rule": job.rule,
        "Waited": took((job.started_at - job.scheduled_at).total_seconds()) if job.started_at else "",
    }
    return joined([tag("h3", f"{job.pipeline} {job.version}"), facts(rows)])


def delivered(told: Story) -> Step:
    """Where each object stands."""
    every = sorted(told.deliveries, key=lambda one: one.id)
    if not every:
        return Step("delivered", "Deliveries", None, "plain", tag("p", "Nothing to deliver yet.", class_="soft"))
    states = Counter(one.state for one in every)
    kind = "bad" if states["REFUSED"] else ("busy" if states["QUEUED"] else "good")
    rows = [[one.role, one.destination, _stands(one), one.attempts, at(one.updated_at, day=False)] for one in every]
    heads = ("Object", "To", "State", "Tries", "At")
    return Step("delivered", "Deliveries", max(one.updated_at for one in every), kind, table(heads, rows, caption="Deliveries"))


def _stands(one: Delivery) -> Html:
    """The state, and below it what the destination said, unless it simply took the object."""
    taken = one.state in ("SENT", "CONFIRMED")
    return joined([chip(one.state), "" if taken or not one.reason else tag("span", one.reason, class_="reason soft")])


def trail(told: Story) -> Html:
    """The audit records about this study, oldest first."""
    rows = [
        [one.seq, at(_moment(one.at)), one.meaning, one.who, one.what, ", ".join(f"{name} {fact}" for name, fact in one.facts.items())]
        for one in told.audit
    ]
    heads = ("No.", "At", "Event", "Who", "What", "Facts")
    return more(counted(len(rows), "record"), table(heads, rows, caption="Audit records of this study"))


# --- results ------------------------------------------------------------------------------------------------------------------
def title_of(job: WholeJob) -> Html:
    """The headline of a result."""
    sure = "" if job.confidence is None else f", {chance_said(job.confidence)}"
    said = f"{job.label or 'no label'}{sure}" if job.analysed else "not analysed"
    shadow = tag("span", " in the shadow", class_="soft") if job.shadow else Html("")
    return tag("h3", f"{job.pipeline} {job.version}: ", tag("strong", said), shadow)


def found_words(job: WholeJob) -> Html:
    """Findings with their numbers, and remarks on quality."""
    result = job.result
    if not job.analysed:
        return tag("p", result.get("reason") or job.reason)
    rows = [_finding(one) for one in result.get("findings") or ()]
    heads = ("Finding", "Probability", "Decision", "Where", "Measured")
    notes = [tag("li", note) for note in result.get("notes") or ()]
    return joined(
        [table(heads, rows, caption=f"Findings of {job.pipeline}") if rows else "", tag("ul", *notes, class_="soft") if notes else ""]
    )


def _finding(one: Mapping[str, Any]) -> list[object]:
    probability = one.get("probability")
    silent = Html("not trained" if probability is None and not one.get("measurements") else "")
    decided = {True: chip("present", "busy"), False: chip("not present", "plain")}.get(one.get("present"), silent)  # type: ignore[arg-type]
    where = " ".join(str(word) for word in (one.get("laterality"), one.get("site")) if word)
    measured = [
        f"{m['name']} {number_said(m['value'])}\N{NO-BREAK SPACE}{unit_said(m['unit'])}".rstrip() for m in one.get("measurements") or ()
    ]
    return [one["name"], "" if probability is None else chance_said(probability, decimals=1), decided, where, "; ".join(measured)]


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
