"""What stands behind the doors over HTTP: the parts of a house."""

from __future__ import annotations

from functools import partial

import uvicorn
from fastapi import FastAPI

from config import OidcSettings
from node.abilities import abilities
from node.assembly import House, now
from node.commands.api_parts import api_parts
from node.commands.desks import compared, rules_desk, sending_desk
from node.tls import server_context
from node.visits import Visits
from node.web.app import WebParts
from node.web.audit import AuditParts
from node.web.predict import PredictParts
from node.web.provider import Provider
from node.web.reading import ReadingParts
from node.web.reveal import RevealParts


def web_server(home: House, app: FastAPI) -> uvicorn.Server:
    """The app at the address of the settings: HTTPS where they name a certificate (TLS 1.2 or later, PS3.15 B.12)."""
    chosen = home.settings.web
    config = uvicorn.Config(
        app,
        host=chosen.host,
        port=chosen.port,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=10,
        ssl_certfile=chosen.tls_cert_file,
        ssl_keyfile=chosen.tls_key_file,
    )
    if chosen.tls_cert_file and chosen.tls_key_file:
        config.load()
        config.ssl = server_context(chosen.tls_cert_file, chosen.tls_key_file)
    return uvicorn.Server(config)


def web_parts(home: House, visits: Visits) -> WebParts:
    """The doors over HTTP, and what stands behind each."""
    chosen = home.settings.web
    writer = home.vault.writer("web")
    sources = home.orthanc_sources(writer)
    return WebParts(
        accept_instance=partial(home.intake.accept, writer=writer),
        head=home.head,
        spool=home.spool,
        hook=lambda peer, study: sources[peer].study_is_stable(study),
        bearer=home.tokens.bearer,
        reception=home.reception,
        record=home.trail.record,
        hook_secret=chosen.hook_secret.get_secret_value() if chosen.hook_secret else "",
        peers=tuple(sources),
        room_left=lambda: home.free_bytes() > 0,
        ready=home.ready,
        agreement=home.verdicts.rates,
        max_upload_bytes=chosen.max_upload_mb << 20,
        openid=_openid(chosen.oidc),
        address=chosen.address,
        audit=AuditParts(find=home.trail.find, verify=home.trail.verify, export=home.trail.export),
        reveal=RevealParts(
            reveal=lambda study, who, reason: home.reveal_study(study, reason, who),
            requests=lambda: list(home.reveal.requests()),
            approve=home.approve_reveal,
        ),
        api=api_parts(home),
        predict=_predict_parts(home, visits) if home.settings.predict.enabled else None,
        light_box=home.light_box,
        reading=ReadingParts(
            open=home.reading_links.open,
            told=home.told_of_job,
            heard=lambda job: home.verdicts.heard(of_job=job),
            answer=home.answer,
            answers=home.answers,
            reader_of=home.clean_uids.reader,
            worth=home.worth_labelling,
            shows_images=home.shows_images,
        ),
        rules=rules_desk(home),
        compare=partial(compared, home),
        sending=sending_desk(home),
        clock=now,
    )


def _openid(chosen: OidcSettings | None) -> Provider | None:
    if chosen is None:
        return None
    secret = chosen.client_secret.get_secret_value() if chosen.client_secret else ""
    return Provider(**chosen.model_dump(exclude={"client_secret"}), client_secret=secret)


def _predict_parts(home: House, visits: Visits) -> PredictParts:
    """What uploads are looked at with."""
    return PredictParts(
        examine=visits.examine,
        seat=visits.seat,
        spool=home.spool,
        meta=partial(abilities, home),
        room_left=lambda: home.free_bytes() > 0,
        max_upload_bytes=home.settings.web.max_upload_mb << 20,
        max_files=home.settings.predict.max_files,
    )
