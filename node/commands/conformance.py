"""`radnode conformance`: the DICOM Conformance Statement (PS3.2) of this node with its settings, printed by what the node is built from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import typer
from pydicom.uid import UID

import node
from node import codes, provenance, scp
from node.codes import LABEL_MAP, Code
from node.commands.options import Config, house
from node.domain import Role
from node.profiles import SOP_CLASSES
from node.seg_syntax import SEGMENTATIONS, SYNTAXES

if TYPE_CHECKING:
    from config import ScpSettings, Settings

TEXT = Path(__file__).with_suffix(".md")
_SCP_STATUSES = {
    scp.SUCCESS: "Success",
    scp.OUT_OF_RESOURCES: "Refused: out of resources; the disk is below its watermark. Send again later",
    scp.DATA_SET_MISMATCH: "Error: UIDs of the data set are missing, or not those of the command",
    scp.CANNOT_UNDERSTAND: "Error: the data set can't be read as far as its UIDs",
    scp.PROCESSING_FAILURE: "Processing failure. Send again later",
    scp.INVALID_SOP_INSTANCE: "Affected SOP Instance UID is not a UID",
    scp.SOP_CLASS_NOT_SUPPORTED: "SOP Class is not that of the presentation context",
    scp.UNRECOGNIZED_OPERATION: "an operation other than C-STORE and C-ECHO",
}


def conformance(config: Config = None) -> None:
    """Print the DICOM Conformance Statement of the node with these settings."""
    home = house(config, quiet=True)
    edition, options = home.profile_claims()
    typer.echo(
        statement(home.settings, edition=edition, options=options, default=not (config or os.environ.get("RADNODE_CONFIG"))), nl=False
    )


def statement(settings: Settings, *, edition: str, options: Iterable[str], default: bool) -> str:
    """The statement as Markdown.

    Parameters
    ----------
    edition, options : of PS3.15 Table E.1-1, and the options of the profile that are on.
    default : whether these are the settings that a node has when nobody set any.
    """
    return Template(TEXT.read_text(encoding="utf-8")).substitute(
        version=node.__version__,
        which="its default settings" if default else "the settings of this installation",
        **_receiver(settings),
        **_delivery(settings),
        options=", ".join(options),
        edition=edition,
        received=_uids(scp.STORAGE_SOP_CLASSES),
        created=_rows(_created_row(role, content) for role, content in CREATED.items()),
        codes=_rows((code.value, code.scheme_designator, code.meaning) for code in _codes()),
        manufacturer=provenance.MANUFACTURER,
        model=provenance.MODEL,
    )


def _receiver(settings: Settings) -> Mapping[str, object]:
    door, web = settings.scp, settings.web
    return {
        "ae_title": door.ae_title,
        "max_pdu": door.max_pdu_bytes,
        "associations": door.processes * door.max_associations,
        "implementation": scp.IMPLEMENTATION_CLASS_UID,
        "implementation_name": scp.IMPLEMENTATION_VERSION,
        "callers": ", ".join(f"`{c.ae_title}` ({', '.join(c.addresses) or 'any address'})" for c in door.callers) or "nobody yet",
        "transfer_syntaxes": _uids(scp.TRANSFER_SYNTAXES),
        "scp_statuses": _rows((f"0x{status:04X}", words) for status, words in _SCP_STATUSES.items()),
        "scp_ports": " and ".join(f"{door.host}:{port}{how}" for port, how in ((door.port, ""), (door.tls_port, " by TLS")) if port),
        "scp_tls": _receiver_tls(door),
        "web_scheme": "HTTPS" if web.tls_cert_file else "HTTP",
        "web_tls": "HTTPS of its own"
        if web.tls_cert_file
        else "no TLS of its own in these settings (`web.tls_cert_file`); a proxy may terminate it",
        "web_host": web.host,
        "web_port": web.port,
        "max_upload": web.max_upload_mb,
        "settle_after": f"{settings.intake.settle_after_s:g}",
    }


def _receiver_tls(door: ScpSettings) -> str:
    if not door.tls_port:
        return "no port that speaks TLS in these settings (`scp.tls_port`; 2762 is registered for it)"
    peers = "a peer must show a certificate of the site's authority" if door.tls_ca_file else "peers need no certificate"
    clear = f"port {door.port} speaks no TLS" if door.port else "there is no port without it"
    return f"port {door.tls_port} speaks nothing but TLS, {clear}; {peers}"


def _delivery(settings: Settings) -> Mapping[str, object]:
    named = [f"`{name}` ({keys.get('kind', '?')})" for name, keys in settings.destinations.items()]
    return {
        "first_retry": f"{settings.delivery.first_retry_s:g}",
        "longest_retry": f"{settings.delivery.longest_retry_s:g}",
        "give_up": f"{settings.delivery.give_up_after_hours:g}",
        "destinations": ", ".join(named) or "none yet",
    }


# --- tables ---------------------------------------------------------------------------------------------------------------
_NAMES = {str(LABEL_MAP): "Label Map Segmentation Storage"}  # younger than pydicom's dictionary
CREATED: Mapping[Role, str] = {
    Role.SEG: "each segment with category, type, algorithm and Tracking UID; empty frames left out; references every source image",
    Role.SEG_LABELMAP: "the same as one label a pixel",
    Role.SEG_FRACTIONAL: "the same as fractions: the probability, or where the mask is all there is 0 and maximum",
    Role.SC: "heat map over the source image with legend, model and RESEARCH USE ONLY burned in",
    Role.KEYS: "one page with the key images and the numbers",
    Role.SR: "TID 1500 with TID 1410 groups; without findings to measure TID 2000; unverified; names its predecessor",
    Role.SR_ENHANCED: "the same content for those who take no Comprehensive SR",
    Role.SR_EDITABLE: "TID 1500 with an area (TID 300) for each outline, as OHIF writes its own measurements: it takes them over to be edited",
    Role.TEXT: "the same in words, TID 2000",
    Role.PDF: "the same as a page to print",
    Role.PR: "outline and label of each finding as graphics on the source images, and their window",
    Role.KO: "TID 2010: the images that matter, and the results",
    Role.PM: "the heat map as 32-bit floating point values on the source's grid",
    Role.RTSTRUCT: "each segment as closed planar contours in the frame of reference",
}


def _created_row(role: Role, content: str) -> tuple[str, ...]:
    classes = SOP_CLASSES[role]
    names = "<br>".join(name_of(uid).removesuffix(" Storage") for uid in classes)
    syntaxes = ["Explicit VR Little Endian"]
    if set(classes) & set(SEGMENTATIONS):  # as `transfer_syntax` of a destination says
        syntaxes += [f"{uid.name} on request" for word, uid in SYNTAXES.items() if word != "explicit"]
    return role.value, names, "<br>".join(f"`{uid}`" for uid in classes), "<br>".join(syntaxes), content


def name_of(uid: str) -> str:
    said = UID(uid)
    return _NAMES.get(uid) or f"{said.name}{' (Retired)' if said.is_retired else ''}"


def _codes() -> list[Code]:
    """The concepts that `codes.py` names, by scheme."""
    found = {value for value in vars(codes).values() if isinstance(value, Code)}
    return sorted(found, key=lambda code: (code.scheme_designator, code.meaning))


def _uids(uids: Iterable[str]) -> str:
    """A table of UIDs with their names of PS3.6."""
    named = sorted((name_of(uid), uid) for uid in uids)
    return "| name | UID |\n|---|---|\n" + _rows((name, f"`{uid}`") for name, uid in named)


def _rows(rows: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
