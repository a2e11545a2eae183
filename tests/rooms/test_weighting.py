"""What an MR image shows bright, by the words of makers and by the times of the sequence."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset

from node.conditions.contrast import Contrast
from node.conditions.weighting import Weighting
from node.domain import Channel, CleanUid, Instance, Origin, Pseudonym, Series, Study, StudyRef
from node.testing.mr_weightings import mr_weightings
from tests.rooms.workbench import now


def found(modality: str = "MR", **told: Any) -> str:
    """Its weighting; empty where it can't be told."""
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", "2.25.1"
    for keyword, value in told.items():
        setattr(header, keyword, value)
    series = Series(series_instance_uid=CleanUid("2.25.2"), modality=modality, instances=(Instance(header=header, path=None),))  # type: ignore[arg-type]
    origin = Origin(channel=Channel.FOLDER, received_at=now())
    study = Study(
        ref=StudyRef(study=CleanUid("2.25.3"), revision=1),
        pseudonym=Pseudonym("P"),
        origin=origin,
        folder=None,
        series=(series,),  # type: ignore[arg-type]
    )
    return next(iter(Weighting(("T1",)).found(study, series)), "")


@pytest.mark.parametrize(
    ("description", "weighting"),
    [
        ("t1_mprage_sag_p2_iso", "T1"),
        ("Ax T1 FLAIR", "T1"),
        ("SAG BRAVO POST", "T1"),
        ("T1+C", "T1"),
        ("T1W_3D_TFE_gd", "T1"),
        ("t2_tirm_tra_dark-fluid", "FLAIR"),
        ("AX T2 FLAIR FS", "FLAIR"),
        ("t2_space_dark-fluid_sag", "FLAIR"),
        ("T2 tra", "T2"),
        ("T2W_TSE", "T2"),
        ("AX T2* GRE", "T2*"),
        ("t2_star_tra", "T2*"),
        ("ep2d_diff_b1000_ADC", "ADC"),
        ("Apparent Diffusion Coefficient (mm2/s)", "ADC"),
        ("ep2d_diff_3scan_trace_p2", "DWI"),
        ("DWI b 1000", "DWI"),
        ("SWI_Images", "SWI"),
        ("PD FS sag", "PD"),
        ("T1 map", ""),
        ("sT1W_3D_TFE", "T1"),
        ("sT2W_TSE", "T2"),
        ("T1 MIP KM", ""),
        ("T1 tra SUB", ""),
        ("t2_haste_loc", ""),
        ("T1 in phase", "T1"),
        ("Localizer", ""),
        ("Schädel", ""),
    ],
)
def test_the_words_of_makers(description: str, weighting: str) -> None:
    assert found(SeriesDescription=description) == weighting


@pytest.mark.parametrize(
    ("told", "weighting"),
    [
        ({"ScanningSequence": "SE", "EchoTime": 10, "RepetitionTime": 550}, "T1"),
        ({"ScanningSequence": "SE", "EchoTime": 96, "RepetitionTime": 4200}, "T2"),
        ({"ScanningSequence": "SE", "EchoTime": 20, "RepetitionTime": 2500}, "PD"),
        ({"ScanningSequence": ["SE", "IR"], "EchoTime": 110, "RepetitionTime": 9000, "InversionTime": 2500}, "FLAIR"),
        ({"ScanningSequence": ["GR", "IR"], "EchoTime": 3, "RepetitionTime": 2300, "InversionTime": 900}, "T1"),
        ({"ScanningSequence": ["EP", "SE"], "EchoTime": 90, "RepetitionTime": 4200}, ""),
        ({"ScanningSequence": ["SE", "IR"], "EchoTime": 50, "RepetitionTime": 4000, "InversionTime": 150}, ""),  # STIR
        ({"ScanningSequence": "SE", "EchoTime": 50, "RepetitionTime": 1500}, ""),
        ({"EchoTime": 10}, ""),
        ({"AcquisitionContrast": "FLUID_ATTENUATED", "SeriesDescription": "T2"}, "FLAIR"),
        ({"AcquisitionContrast": "UNKNOWN", "SeriesDescription": "T2"}, "T2"),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], "SeriesDescription": "ep2d"}, "ADC"),
        ({"SeriesDescription": "Ax 3D", "ProtocolName": "FLAIR"}, "FLAIR"),
        ({"ScanningSequence": "GR", "EchoTime": 20, "SeriesDescription": "t2 tra"}, "T2*"),
        ({"ScanningSequence": "GR", "EchoTime": 4, "SeriesDescription": "t2_ci3d_tra"}, "T2"),
        ({"ScanningSequence": ["SE", "GR"], "EchoTime": 90, "SeriesDescription": "T2 GRASE"}, "T2"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"], "SeriesDescription": "SWI phase"}, ""),
        ({"ImageType": ["DERIVED", "PRIMARY", "MNIP", "ND"], "ProtocolName": "t2_swi3d_tra"}, ""),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "T1", "NONE"]}, "T1"),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], "AcquisitionContrast": "DIFFUSION"}, "ADC"),
        ({"ImageType": ["DERIVED", "PRIMARY", "T1 MAP"], "AcquisitionContrast": "T1"}, ""),
    ],
)
def test_what_the_header_says_besides(told: dict[str, Any], weighting: str) -> None:
    assert found(**told) == weighting


@pytest.mark.parametrize(
    ("description", "agent", "given"),
    [
        ("T1 tra", "", False),
        ("T1 tra", "Gadoterate", True),
        ("T1 tra KM", "", True),
        ("T1+C", "", True),
        ("AX T1 C+", "", True),
        ("T1 POST", "", True),
        ("T1 tra nativ", "Gadoterate", False),
        ("AX T1 PRE CONTRAST", "Gadoterate", False),
        ("T1 w/o contrast", "Gadoterate", False),
        ("T1 sans injection", "", False),
        ("T1 post op", "", False),
        ("T1 FOV 24 cm", "", False),
        ("phase contrast", "", False),
    ],
)
def test_contrast_by_the_words_of_an_mr_before_its_header(description: str, agent: str, given: bool) -> None:
    """Scanners write the agent into every series of a study, or into none."""
    header = Dataset()
    header.SeriesDescription, header.ContrastBolusAgent = description, agent
    instances = (Instance(header=header, path=None),)  # type: ignore[arg-type]
    mr = Series(series_instance_uid=CleanUid("2.25.2"), modality="MR", instances=instances)
    ct = Series(series_instance_uid=CleanUid("2.25.2"), modality="CT", instances=instances)

    assert Contrast.parse(given).ask(None, mr)[0]  # type: ignore[arg-type]
    assert Contrast.parse(bool(agent)).ask(None, ct)[0]  # type: ignore[arg-type]


def test_other_modalities_have_none() -> None:
    assert found("CT", SeriesDescription="T1 of something") == ""


def test_the_star_of_t2_stands_for_itself() -> None:
    [ds, *_] = mr_weightings(rows=32, slices=6)
    series = Series(series_instance_uid=CleanUid("2.25.2"), modality="MR", instances=(Instance(header=ds, path=None),))  # type: ignore[arg-type]
    ds.SeriesDescription = "T2 tra"

    assert Weighting.parse("T2*").ask(None, series) == (False, "weighting T2 is none of T2*")  # type: ignore[arg-type]
    assert Weighting.parse(["t2", "PD"]).ask(None, series) == (True, "weighting T2 is one of T2, PD")  # type: ignore[arg-type]
