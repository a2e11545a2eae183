"""What `/predict` and `/meta` answer, as the OpenAPI document describes it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

DISCLAIMER = "Research use only. Not a medical device, not for diagnosis. A model can be wrong; a physician looks at the images."
NOT_TRAINED = "The model was not trained for this label: it says neither that it is there nor that it is not."


class Code(BaseModel):
    """A coded concept (PS3.3 section 8)."""

    value: str
    scheme: str = Field(description="Coding Scheme Designator, e.g. SCT.")
    meaning: str


class Measurement(BaseModel):
    """One number about a finding."""

    name: str
    value: float
    unit: str = Field(description="UCUM.")


class Finding(BaseModel):
    """One thing that was looked for. A classifier lists all its labels."""

    name: str
    code: Code
    probability: float | None = Field(description="0 to 1; null where nothing is said, and `remark` says why.")
    present: bool | None = Field(description="The decision at the model's threshold; null where there is none.")
    trained: bool = Field(description="Whether the model was trained for the label.")
    remark: str | None = None
    site: str | None = None
    laterality: str | None = None
    measurements: list[Measurement] = []


class ModelName(BaseModel):
    """Which weights answered."""

    name: str
    version: str
    digest: str = Field(description="SHA-256 of the weights, hexadecimal.")


class Prediction(BaseModel):
    """What the pipeline found, or why it did not look."""

    pipeline: str | None = Field(description="Null when the upload was refused before a pipeline was chosen.")
    model: ModelName | None
    analysed: bool
    reason: str | None = Field(description="Why it was not analysed.")
    label: str | None = Field(description="The headline.")
    confidence: float | None = Field(description="Of the headline, 0 to 1.")
    findings: list[Finding]
    notes: list[str] = Field([], description="What a reader should know of the images and of the model.")
    clinical_used: list[str] = Field([], description="What the model took of `clinical` and of the header.")
    rule: str | None = Field(None, description="The rule that chose the pipeline; null where the request named it.")
    other_pipelines: list[str] = Field([], description="Pipelines that the rules name for this upload too.")
    left_out: int = Field(0, description="Members of a zip that are neither DICOM nor pictures.")
    disclaimer: str = DISCLAIMER


class Label(BaseModel):
    """A label of a pipeline."""

    name: str
    code: Code | None = Field(description="Null where it is not known before something is found.")
    trained: bool


class Version(BaseModel):
    """An installed version of a pipeline's model."""

    version: str
    state: Literal["active", "shadow", "retired"]
    digest: str
    trouble: str | None = Field(None, description="Why it does not run although its state says so.")


class Licence(BaseModel):
    """Of the weights."""

    name: str | None
    non_commercial: bool | None = Field(description="True: may not be used for profit. Null: the bundle does not say.")


class PipelineMeta(BaseModel):
    """What a pipeline is for and which model it runs."""

    name: str
    title: str
    version: str
    digest: str
    versions: list[Version]
    takes: Literal["volume", "image"]
    accepts: list[str] = Field(description="Kinds of files: DICOM, and PNG and JPEG where a plain picture can be read.")
    labels: list[Label]
    intended_use: dict[str, Any]
    clinical: list[str] = Field(description="What the model takes of `clinical`, where it is known.")
    licence: Licence
    research_only: bool
    model_card: str = Field(description="Markdown.")


class LimitsMeta(BaseModel):
    """What is taken at once."""

    upload_mb: int
    files: int
    requests_at_once: int
    wait_s: float = Field(description="For a free worker; then 503.")
    timeout_s: float = Field(description="For the model; then 500.")


class Meta(BaseModel):
    """What this node can do."""

    node: str = Field(description="The node's version.")
    pipelines: list[PipelineMeta]
    clinical: dict[str, str] = Field(description="Keys of `clinical`, and what each may be.")
    limits: LimitsMeta
    disclaimer: str = DISCLAIMER


class ProblemDocument(BaseModel):
    """RFC 9457: what went wrong and what to do."""

    type: str
    title: str
    status: int
    detail: str
