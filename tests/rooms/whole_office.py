"""A node's web room with every door that it may have, people at them, and studies in every state behind them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

from node.gateway import Gateway
from node.web.provider import Provider
from tests.rooms.api_site import WHY, Site, a_full_site, a_house, doors
from tests.rooms.people_web import Office
from tests.rooms.workbench import bundle

DRAFT = "rules:\n- {name: draft, when: {modality: MR}, run: works, send_to: pacs}\n"
OIDC = Provider(issuer="http://127.0.0.1:9", client_id="radnode")


class Whole(Office):
    """A web room with everything that a node may have, and studies in every state."""

    def settles_in(self, site: Site) -> None:
        self.site, self.studies = site, a_full_site(site)
        self.study, [self.job] = self.studies["done"], site.home.jobs.of_study(self.studies["done"])
        self.waiting = site.home.reveal_study(self.study, WHY).waiting  # for a second person

    def address(self, path: str) -> str:
        """The path with names of things that are there."""
        if path.startswith("/dicom-web"):
            results = self.site.home.named_results
            written = results.header(results.of(str(self.site.sources[self.study].StudyInstanceUID))[0])
            names = {"study": written.StudyInstanceUID, "series": written.SeriesInstanceUID, "instance": written.SOPInstanceUID}
            return path.format(**names) + (f"?StudyInstanceUID={written.StudyInstanceUID}" if path == "/dicom-web/studies" else "")
        token = self.site.home.reading_links.make(self.job.id)
        names = {"study": self.study, "job": self.job.id, "pipeline": "works", "file": "start.js", "token": token}
        query = {"/api/v1/events": "?seconds=1"}.get(path, f"?view={re.sub('[^a-z]', '', path)[-40:]}" if "/pictures" in path else "")
        return path.format(**names, at=0, segment=1, number=int("rules" in path), other=1) + query


@contextmanager
def whole_office(folder: Path) -> Iterator[Whole]:
    """A draft of the rules is watched, a name is asked for, and two versions of a pipeline were active."""
    with a_house(folder, reidentification={"approval": "second person"}) as home:
        bundle(folder / "models", "works", "2.0.0")
        home.shelf.promote("works", "1.0.0", who="os:test", reason=WHY)
        home.rule_book.watch(DRAFT, who="os:test", reason="to see what it would do")
        parts = replace(doors(home), openid=OIDC)
        handed = {one.name: getattr(parts, one.name) for one in fields(parts) if one.name != "reception"}
        office = Whole(folder, home, **handed)
        office.settles_in(Site(home=home, gateway=Gateway(home), folder=folder, web=None))  # type: ignore[arg-type]
        office.opens()
        yield office
        office.closes()
