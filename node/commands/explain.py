"""`radnode explain`: every rule, what matched, what did not and why. Nothing is run, nothing is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from node.assembly import AnyName
from node.commands.offline import own_house
from node.commands.options import EXAMPLE_RULES, Config, Json, house
from node.domain import Study
from node.errors import StudyRefused
from node.router import decide, explained, text_of_file
from node.router import explain as in_words


def explain(
    study_dir: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="DICOM files of one or more studies.")],
    rules: Annotated[Path | None, typer.Option("--rules", help="This rules file instead of the rules in force.")] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Say for every rule and series whether they meet, and why. Rules see what they would see in a node: the de-identified study."""
    node = house(config, quiet=True)
    given = node.settings
    text = text_of_file(rules) if rules else node.rules_text() or EXAMPLE_RULES.read_text()
    settled = given.intake.model_copy(update={"settle_after_s": 0.0})
    with own_house(given, known_destinations=AnyName(), rules=None, intake=settled) as home:
        asked = home.rule_book.read(text, rules.name if rules else "rules")
        home.take_folder(study_dir)
        found = []
        for ref in home.intake.settled():
            try:
                study: Study = home.deidentifier.deidentify(home.intake.open(ref))
            except StudyRefused as why:
                typer.echo(f"study {ref.study}: refused before any rule is asked. {why}", err=True)
                continue
            found.append(explained(decide(study, asked, home.needs)))
            if not as_json:
                typer.echo(in_words(study, asked, home.needs))
        if as_json:
            typer.echo(json.dumps(found, indent=1))
    if not found:
        typer.echo("nothing to explain: every study was refused", err=True)
        raise typer.Exit(1)
