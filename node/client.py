"""A client for programs that ask a node: `predict`, `heatmap`, `meta`. Needs httpx and nothing else of the node; `/api/v1` is in `api_client.py`.

with Radnode("https://node.example", token) as node:
    answer = node.predict([Path("film.dcm")], pipeline="chest_xray", clinical={"age": 61, "sex": "F"})
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import httpx

File = Path | bytes  #: a file, or its content


class Refused(Exception):
    """The node answered with a problem document (RFC 9457)."""

    def __init__(self, status: int, detail: str, *, retry_after_s: float | None = None, more: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{status}: {detail}")
        self.status, self.detail = status, detail
        self.retry_after_s = retry_after_s  #: with 503: when to come again
        self.more = dict(more or {})  #: e.g. `pipelines`, where one should have been named


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked for."""

    name: str
    code: tuple[str, str, str]  #: value, scheme, meaning
    probability: float | None  #: None: nothing is said, and `remark` tells why
    present: bool | None
    trained: bool
    remark: str | None
    site: str | None
    laterality: str | None
    measurements: tuple[tuple[str, float, str], ...]  #: name, value, UCUM unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a pipeline found, or why it did not look."""

    pipeline: str | None
    model: tuple[str, str, str] | None  #: name, version, digest of the weights
    analysed: bool
    reason: str | None  #: why not
    label: str | None
    confidence: float | None
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    disclaimer: str
    answer: Mapping[str, Any] = field(repr=False)  #: the whole answer, in JSON values

    def __getitem__(self, name: str) -> Finding:
        """The finding of that name."""
        return next(one for one in self.findings if one.name == name)


class Radnode:
    """A node over HTTP.

    Parameters
    ----------
    url : of the node, e.g. "http://127.0.0.1:8080"
    token : of role integrator, radiologist or admin
    timeout_s : for one answer; a node that loads a model first may need a minute
    http : a client with settings of its own, such as certificates
    """

    def __init__(self, url: str, token: str, *, timeout_s: float = 600, http: httpx.Client | None = None) -> None:
        self._url, self._headers = url.rstrip("/"), {"Authorization": f"Bearer {token}"}
        self._http = http or httpx.Client(timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def predict(self, files: Sequence[File], **asked: Any) -> Prediction:
        """What is found in the files of one study, pictures, or a zip of either.

        Parameters
        ----------
        asked : `pipeline` (empty: the rules choose), `clinical` (a mapping), `view`, `modality`

        Raises
        ------
        Refused
            With what to do. An upload outside the intended use is an answer: `analysed` is false and `reason` says why.
        """
        return _prediction(self._post("/predict", files, "application/json", **asked).json())

    def heatmap(self, files: Sequence[File], *, dicom: bool = False, **asked: Any) -> bytes:
        """Where the model looked: PNG, or with `dicom` the Secondary Capture as a DICOM file. Raises Refused."""
        return self._post("/heatmap", files, "application/dicom" if dicom else "image/png", **asked).content

    def meta(self) -> dict[str, Any]:
        """Pipelines, their labels and models, limits. Raises Refused."""
        found = checked(self._http.get(f"{self._url}/meta", headers=self._headers)).json()
        return dict(found)

    def _post(
        self,
        path: str,
        files: Sequence[File],
        accept: str,
        *,
        pipeline: str = "",
        clinical: Mapping[str, float | str] | None = None,
        view: str = "",
        modality: str = "",
    ) -> httpx.Response:
        told = {"pipeline": pipeline, "clinical": json.dumps(dict(clinical)) if clinical else "", "view": view, "modality": modality}
        with _opened(files) as opened:  # no name of a file is sent: it may name a patient
            parts = [("files", (f"file-{number}", content, "application/octet-stream")) for number, content in enumerate(opened, 1)]
            data = {name: value for name, value in told.items() if value}
            return checked(self._http.post(self._url + path, files=parts, data=data, headers={**self._headers, "Accept": accept}))


@contextmanager
def _opened(files: Sequence[File]) -> Iterator[list[bytes | IO[bytes]]]:
    with ExitStack() as stack:
        yield [stack.enter_context(one.open("rb")) if isinstance(one, Path) else one for one in files]


def checked(answer: httpx.Response) -> httpx.Response:
    """The answer, if it is one. Raises Refused."""
    if answer.is_success:
        return answer
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    known = {"type", "title", "status", "detail"}
    after = answer.headers.get("retry-after", "")
    raise Refused(
        answer.status_code,
        str(problem.get("detail", answer.reason_phrase)),
        retry_after_s=float(after) if after.isdecimal() else None,
        more={name: value for name, value in problem.items() if name not in known},
    )


def _prediction(answer: Mapping[str, Any]) -> Prediction:
    model = answer["model"]
    return Prediction(
        pipeline=answer["pipeline"],
        model=(model["name"], model["version"], model["digest"]) if model else None,
        analysed=answer["analysed"],
        reason=answer["reason"],
        label=answer["label"],
        confidence=answer["confidence"],
        findings=tuple(_finding(one) for one in answer["findings"]),
        notes=tuple(answer.get("notes", ())),
        disclaimer=answer["disclaimer"],
        answer=answer,
    )


def _finding(found: Mapping[str, Any]) -> Finding:
    code = found["code"]
    return Finding(
        name=found["name"],
        code=(code["value"], code["scheme"], code["meaning"]),
        probability=found["probability"],
        present=found.get("present"),
        trained=found.get("trained", True),
        remark=found.get("remark"),
        site=found.get("site"),
        laterality=found.get("laterality"),
        measurements=tuple((one["name"], one["value"], one["unit"]) for one in found["measurements"]),
    )
