"""What a reader may answer to a result, and what was answered before: one form, for the reading page and for the story of a study.

It is plain HTML, so that it works in a viewer's browser without a session, and each answer is one click.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from node.assessment.told import Told
from node.domain import Opinion
from node.errors import NotThere, VerdictRefused
from node.ledger.job_list import WholeJob
from node.ledger.tokens import Role
from node.ledger.verdicts import Heard, last_words
from node.web.api.parts import ApiParts
from node.web.auth import needs
from node.web.problems import Problem
from node.web.reading import ReadingParts
from node.web.ui.markup import Html, at, joined, table, tag
from node.web.ui.plain import form, page, person

ANSWERS = "/answers/"
WHOLE = "The whole result"
REASONS = (
    "image quality",
    "artifact",
    "normal anatomy",
    "old finding",
    "other finding",
    "wrong location",
    "wrong size",
)
SAID = {Opinion.ACCEPT: "accepted", Opinion.MODIFY: "to be modified", Opinion.REJECT: "rejected", Opinion.MISSED: "missed"}
_BUTTONS = ((Opinion.ACCEPT, "Accept"), (Opinion.MODIFY, "Modify"), (Opinion.REJECT, "Reject"))
LONGEST = 300


def answers_of(reading: ReadingParts, job: WholeJob, action: str, name: str, *, only: str = "") -> Html:
    """The form of a job's result; empty where nothing was told to readers.

    Parameters
    ----------
    action
        Where the form goes.
    name
        Of the reader who looks; empty: nobody is known.
    only
        Tracking UID of the one finding that is asked about; empty: all of them.
    """
    ours = reading.told(job.id)
    if ours is None or job.id not in ours.jobs:
        return Html("")
    told = [one for one in ours.told.values() if one.job == job.id and only in ("", one.tracking_uid)]
    names = sorted({one.finding for one in ours.told.values() if one.job == job.id})
    return _form(action, named(told), reading.heard(job.id), reading.reader_of(name), names, whole=not only)


def named(told: Sequence[Told]) -> dict[str, str]:
    """Findings by Tracking UID, as a reader tells them apart: a name that is there twice gets a number."""
    found: dict[str, str] = {}
    for one in told:
        several = [other.tracking_uid for other in told if other.finding == one.finding]
        found[one.tracking_uid] = one.finding + (f" {several.index(one.tracking_uid) + 1}" if len(several) > 1 else "")
    return found


def _form(action: str, told: Mapping[str, str], heard: Sequence[Heard], me: str, names: Sequence[str], *, whole: bool) -> Html:
    said = last_words(heard)
    rows = [[name, _buttons(uid, name), _answered(said, uid, me)] for uid, name in told.items()]
    if whole:
        rows.append([WHOLE, _buttons("", WHOLE), _answered(said, "", me)])
    key = action.rpartition("/")[2][:16]
    missed = [
        tag("label", "Missed by the model", for_=f"missed-{key}"),
        tag("select", tag("option", "something else", value=""), *(tag("option", one) for one in names), name="missed", id=f"missed-{key}"),
    ]
    reason = [
        tag("label", "Reason", for_=f"reason-{key}"),
        tag("select", tag("option", "none", value=""), *(tag("option", one) for one in REASONS), name="reason", id=f"reason-{key}"),
    ]
    more = [
        tag("label", "In your words (names do not stay)", for_=f"words-{key}"),
        Html(f'<input type="text" name="words" id="words-{key}" maxlength="{LONGEST}" autocomplete="off">'),
    ]
    once = Html(f'<input type="hidden" name="form" value="{secrets.token_hex(8)}">')
    missing = [one for one in said if one.verdict.opinion is Opinion.MISSED]
    return tag(
        "form",
        once,
        tag("h3", "Your answer"),
        tag("p", "A reason first, if there is one; then one click.", class_="soft"),
        tag("div", tag("div", *reason), tag("div", *more, class_="grow"), class_="fields"),
        table(("Finding", "Answer", "Answered"), rows, caption="Findings to answer"),
        tag(
            "div",
            tag("div", *missed),
            tag("button", "Missed", type="submit", name="answer", value=f"{Opinion.MISSED}:", class_="act"),
            tag("div", _list(missing, me)),
            class_="fields",
        ),
        method="post",
        action=action,
        class_="answers",
        id=f"answers-{key}",
    )


def _buttons(uid: str, name: str) -> Html:
    """In the order in which they are pressed most."""
    return tag(
        "div",
        *(
            tag("button", word, type="submit", name="answer", value=f"{opinion}:{uid}", class_="act", aria_label=f"{word}: {name}")
            for opinion, word in _BUTTONS
        ),
        class_="buttons",
    )


def _answered(said: Sequence[Heard], uid: str, me: str) -> Html:
    return _list([one for one in said if one.verdict.tracking_uid == uid and one.verdict.opinion is not Opinion.MISSED], me)


def _list(said: Sequence[Heard], me: str) -> Html:
    return joined([tag("div", _one(one, me)) for one in said])


def _one(one: Heard, me: str) -> Html:
    verdict = one.verdict
    who = "you" if me and verdict.reader == me else ("another reader" if verdict.reader else "a reader")
    what = SAID[verdict.opinion] + (f" ({verdict.finding})" if verdict.opinion is Opinion.MISSED and verdict.finding else "")
    why = f": {verdict.reason}" if verdict.reason else ""
    return joined([tag("strong", what), f" by {who}, ", at(verdict.at), why])


# --- hearing --------------------------------------------------------------------------------------------------------------------
def keep(reading: ReadingParts, job: str, given: Mapping[str, str], who: str, *, only: str = "") -> Heard:
    """What a form brought. Raises VerdictRefused."""
    opinion, _, uid = given.get("answer", "").partition(":")
    if only and opinion != Opinion.MISSED and uid != only:
        raise VerdictRefused("the link is for another finding")
    reason = " ".join(one for one in (given.get("reason", ""), given.get("words", "")[:LONGEST]) if one)
    missed = given.get("missed", "") if opinion == Opinion.MISSED else ""
    return reading.answer(job, opinion, reason, who, tracking_uid=uid, missed=missed, form=given.get("form", ""))


def routes(reading: ReadingParts, api: ApiParts) -> APIRouter:
    """`/answers/{job}`: the form on the story of a study."""
    router = APIRouter(include_in_schema=False, dependencies=[Depends(needs(Role.RADIOLOGIST))])

    @router.post(ANSWERS + "{job}")
    async def answer(request: Request, job: str) -> Response:
        """Kept, and back to the story."""
        given, who = await form(request), person(request).name

        def kept() -> str:
            study = api.jobs.one(job).study
            keep(reading, job, given, who)
            return study

        try:
            study = await run_in_threadpool(kept)
        except NotThere as why:
            raise Problem(404, str(why) or why.message) from None
        except VerdictRefused as why:
            return page(request, "Your answer", "<p><a href='/studies'>Studies</a></p>", said=f"{why.message} {why.detail}", status=422)
        return RedirectResponse(f"/studies/{study}#answers-{job[:16]}", 303)

    return router
