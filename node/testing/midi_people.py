"""Invented people for a test set: names in several character sets, numbers, addresses, and what each of them would be found by."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from typing import NamedTuple


class Name(NamedTuple):
    """A name as Patient's Name holds it, the character sets it needs, and its parts as they may stand in a text."""

    value: str
    charset: str | list[str]
    latin: tuple[str, str]  #: family and given name in letters that any typeface has
    parts: tuple[str, ...]  #: what it would be known by


SURNAMES = (
    "Abernathy", "Bielecki", "Castellano", "Dragomir", "Eriksdottir", "Fitzwilliam", "Grimaldi", "Hollingworth", "Ivanenko", "Jaworski",
    "Kowalczyk", "Lindqvist", "Mbeki-Zulu", "Nakashima", "O'Sullivan", "Papadakis", "Quintanilla", "Rosenkranz", "Szymanski", "Thorvaldsen",
    "Ueberroth", "Villanueva", "Wojciechowski", "Xanthopoulos", "Yilmazer", "Zimmermann", "Okonkwo", "Delacroix", "McAllister", "Bhattacharya",
)  # fmt: skip
GIVEN = (
    "Agnieszka", "Bartholomew", "Consuelo", "Dmitri", "Evangeline", "Florentino", "Gwendolyn", "Hildegard", "Ignatius", "Jacqueline",
    "Katarzyna", "Leopold", "Marguerite", "Nathaniel", "Oluwaseun", "Penelope", "Quentin", "Rosalinda", "Sebastian", "Theodora",
)  # fmt: skip
OTHERS = (
    Name("Müßiggang^Jörg", "ISO_IR 100", ("Muessiggang", "Joerg"), ("Müßiggang", "Jörg", "Muessiggang", "Joerg")),
    Name("Łukasiewicz^Żaneta", "ISO_IR 101", ("Lukasiewicz", "Zaneta"), ("Łukasiewicz", "Żaneta", "Lukasiewicz", "Zaneta")),
    Name("Достоевский^Фёдор", "ISO_IR 144", ("Dostojewski", "Fjodor"), ("Достоевский", "Фёдор", "Dostojewski", "Fjodor")),
    Name("Παπαδόπουλος^Ευάγγελος", "ISO_IR 126", ("Papadopoulos", "Evangelos"), ("Παπαδόπουλος", "Ευάγγελος", "Papadopoulos", "Evangelos")),
    Name(
        "Yamaguchi^Kentarou=山口^健太郎=やまぐち^けんたろう",
        ["", "ISO 2022 IR 87"],
        ("Yamaguchi", "Kentarou"),
        ("Yamaguchi", "Kentarou", "山口", "健太郎", "やまぐち", "けんたろう"),
    ),
    Name("Hwang^Seoyeon=황^서연", ["", "ISO 2022 IR 149"], ("Hwang", "Seoyeon"), ("Hwang", "Seoyeon", "서연")),
    Name("Ouyang^Xiaodong=欧阳^晓东", "GB18030", ("Ouyang", "Xiaodong"), ("Ouyang", "Xiaodong", "欧阳", "晓东")),
    Name("Nguyễn^Thuỳ Dương", "ISO_IR 192", ("Nguyen", "Thuy Duong"), ("Nguyễn", "Thuỳ Dương", "Nguyen", "Thuy Duong")),
    Name("שטרנברג^אביגיל", "ISO_IR 138", ("Shternberg", "Avigail"), ("שטרנברג", "אביגיל", "Shternberg", "Avigail")),
)
HOSPITALS = (
    ("St. Willehad Hospital", "Willehad", "14 Birkenwerder Lane, 27568 Kronsholm"),
    ("Klinikum Osterwieck", "Osterwieck", "Am Sandhügel 3, 38835 Osterwieck"),
    ("Mount Ephraim Medical Center", "Ephraim", "2200 Tamarack Blvd, Pinecrest Falls 90817"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One patient, and what must be found nowhere."""

    key: str
    name: Name
    patient_id: str
    born: date
    sex: str
    address: str
    telephone: str
    hospital: tuple[str, str, str]
    referrer: str  #: family name of the referring physician
    operator: str
    serial: str

    @property
    def identifiers(self) -> tuple[str, ...]:
        """Every word and number that tells who or where it was."""
        born = (f"{self.born:%Y%m%d}", f"{self.born:%d.%m.%Y}", f"{self.born:%m/%d/%Y}", f"{self.born:%Y-%m-%d}")
        fixed = (
            self.patient_id,
            *born,
            self.telephone,
            self.address.split(",")[0],
            self.hospital[1],
            self.referrer,
            self.operator,
            self.serial,
        )
        return (*self.name.parts, *fixed)


def person(number: int, random: Random) -> Person:
    """Patient `number`: each third has a name beyond ASCII."""
    if number % 3 == 2:
        name = OTHERS[number // 3 % len(OTHERS)]
    else:
        family, given = SURNAMES[(number * 7) % len(SURNAMES)], random.choice(GIVEN)
        name = Name(f"{family}^{given}", ("ISO_IR 100", "ISO_IR 192")[number % 2], (family, given), (family, given))
    referrer, operator = random.sample([s for s in SURNAMES if s not in name.parts], 2)
    born = date(1931, 1, 1) + timedelta(days=random.randrange(27000))
    return Person(
        key=f"patient {number}",
        name=name,
        patient_id=random.choice(("MRN{:07d}", "{:08d}", "PH-{:06d}", "K{:06d}X")).format(random.randrange(100000, 999999)),
        born=born,
        sex="FM"[number % 2],
        address=f"{random.randrange(11, 999)} {random.choice(('Juniper', 'Wisteria', 'Larkspur', 'Magnolia'))} Terrace, Brackenridge",
        telephone=f"555-{random.randrange(200, 999)}-{random.randrange(1000, 9999)}",
        hospital=HOSPITALS[number % len(HOSPITALS)],
        referrer=referrer,
        operator=operator,
        serial=f"SN{random.randrange(10**6, 10**7)}",
    )
