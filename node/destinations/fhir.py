"""A FHIR R4 service as a destination: what a report says, as one transaction (FHIR 3.1.0.11), confirmed by reading it back."""

from __future__ import annotations

import re
import ssl
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, SecretStr

from node.destinations.interface import Destination
from node.errors import DeliveryFailed, DeliveryRefused
from node.fhir_writer import bundle, name_of
from node.sr_reader import REPORTS, read_report

JSON = "application/fhir+json"
# May pass when somebody corrects the settings or the load falls; 409: another transaction holds the same resource.
_FOR_NOW = {401, 403, 407, 408, 409, 425, 429}
_ISSUE = re.compile(r"[a-z]+(-[a-z]+)*")  # codes of OperationOutcome.issue: closed words


class FhirSettings(BaseModel):
    """Where the service is, who the node is there, and whose numbers Patient IDs are."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str  #: the base, e.g. https://records/fhir
    token: SecretStr | None = None  #: sent as `Authorization: Bearer`
    username: str = ""
    password: SecretStr | None = None
    timeout_s: float = 60
    ca_file: str = ""  #: PEM of the authority that signed its certificate, when it is not a public one
    patient_system: str = ""  #: URI of the namespace of Patient IDs; empty: Issuer of Patient ID Qualifiers (0010,0024), where it has one
    confirm: bool = True  #: read the DiagnosticReport back


class Fhir(Destination):
    """PUTs in one transaction, under ids that derive from the report: sent twice, it is there once."""

    Settings = FhirSettings
    settings: FhirSettings
    keeps_objects = False
    _kept: httpx.Client | None = None

    def send(self, part10: bytes) -> str:
        report = read_report(part10)
        if report is None:
            return "FHIR: no report, so nothing to tell"
        told = bundle(report, base=self.settings.url, patient_system=self.settings.patient_system)
        answer = self._ask("POST", "", _checked(told))
        if not answer.is_success:
            self._raise(answer)
        try:
            kept = answer.json()
            statuses = [str(entry["response"]["status"]) for entry in kept["entry"]]
            complete = kept["type"] == "transaction-response" and len(statuses) == len(told["entry"])
        except (ValueError, KeyError, TypeError) as why:
            raise DeliveryFailed("the answer is not a FHIR transaction's", destination=self.name) from why
        if not complete or not all(status.startswith("2") for status in statuses):
            raise DeliveryFailed("the answer does not say that every resource is kept", destination=self.name)
        return f"FHIR: {len(statuses)} resources kept"

    def echo(self) -> str:
        answer = self._ask("GET", "/metadata")
        if answer.status_code != 200:
            self._raise(answer)
        try:
            return f"FHIR {str(answer.json()['fhirVersion'])[:20]}"
        except (ValueError, KeyError, TypeError) as why:
            raise DeliveryFailed("the answer is no CapabilityStatement", destination=self.name) from why

    def confirm(self, sop_class_uid: str, sop_instance_uid: str, study_instance_uid: str) -> bool | None:
        if not self.settings.confirm or sop_class_uid not in REPORTS:
            return None
        try:
            answer = self._ask("GET", f"/DiagnosticReport/{name_of(sop_instance_uid)}")
        except DeliveryFailed:
            return None
        if answer.status_code in {404, 410}:
            return False
        return True if answer.status_code == 200 else None

    def _ask(self, method: str, route: str, content: bytes | None = None) -> httpx.Response:
        try:
            return self._client().request(method, self.settings.url.rstrip("/") + route, content=content)
        except (httpx.HTTPError, OSError) as why:
            raise DeliveryFailed(f"no answer ({type(why).__name__})", destination=self.name) from None

    def _raise(self, answer: httpx.Response) -> None:
        """Of an OperationOutcome only the codes are told: its words may quote the report."""
        http = answer.status_code
        issues = "".join(f", {code}" for code in _issues(answer))
        if http in _FOR_NOW or http >= 500:
            raise DeliveryFailed(f"HTTP {http}{issues}", destination=self.name, http=http)
        raise DeliveryRefused(f"HTTP {http}{issues}", destination=self.name, http=http)

    def _client(self) -> httpx.Client:
        if self._kept is None:
            chosen = self.settings
            headers = {"Accept": JSON, "Content-Type": JSON}
            if chosen.token:
                headers["Authorization"] = f"Bearer {chosen.token.get_secret_value()}"
            basic = (chosen.username, chosen.password.get_secret_value()) if chosen.username and chosen.password else None
            verify: Any = ssl.create_default_context(cafile=chosen.ca_file) if chosen.ca_file else True
            self._kept = httpx.Client(headers=headers, auth=basic, timeout=chosen.timeout_s, verify=verify)
        return self._kept


def _checked(told: dict[str, Any]) -> bytes:
    """The transaction as JSON, once every resource in it is valid R4."""
    from fhir.resources.R4B.bundle import Bundle  # large, and only a node with such a destination needs it

    try:
        return Bundle.model_validate(told).model_dump_json().encode()
    except ValueError:  # its words quote the values
        raise DeliveryRefused("what the report says is not valid FHIR") from None


def _issues(answer: httpx.Response) -> list[str]:
    try:
        codes = [str(issue["code"]) for issue in answer.json()["issue"]]
    except (ValueError, KeyError, TypeError):  # a proxy's page: the status speaks
        return []
    return list(dict.fromkeys(code for code in codes if len(code) < 30 and _ISSUE.fullmatch(code)))
