"""Facts as tables: the numbers that a stage left in its record, for Prefect's page and for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from llavaflow.infra.artifact import Json

Table = tuple[str, list[str], list[list[str]]]


def tables(facts: Mapping[str, Json]) -> Iterator[Table]:
    """(title, header, rows): the plain facts first, then one table for each group of facts."""
    plain = {name: value for name, value in facts.items() if not _is_group(value)}
    if plain:
        yield "", ["fact", "value"], [[name, show(value)] for name, value in plain.items()]
    for name, value in facts.items():
        if _is_group(value):
            yield from _group(name, value)


def _is_group(value: Json) -> bool:
    return (isinstance(value, Mapping) or _is_rows(value)) and bool(value)


def _is_rows(value: Json) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(row, Mapping) for row in value)


def _group(name: str, value: Json) -> Iterator[Table]:
    if _is_rows(value):
        columns = list(dict.fromkeys(column for row in value for column in row))
        yield name, columns, [[show(row.get(column)) for column in columns] for row in value]
    elif any(isinstance(item, Mapping) for item in value.values()):
        rows = {key: item if isinstance(item, Mapping) else {"": item} for key, item in value.items()}
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        yield name, [name, *columns], [[key, *[show(row.get(c)) for c in columns]] for key, row in rows.items()]
    else:
        yield name, [name, "value"], [[str(key), show(item)] for key, item in value.items()]


def show(value: Json) -> str:
    """A fact as text: counts with separators, measures with four significant digits."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}" if abs(value) >= 100 else f"{value:.4g}"


def markdown_tables(facts: Mapping[str, Json]) -> str:
    """All tables of some facts as Markdown."""
    return "\n".join(_markdown(*table) for table in tables(facts)) or "no facts"


def _markdown(title: str, header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"**{title}**\n\n{body}\n" if title else f"{body}\n"


def one_line(facts: Mapping[str, Json], limit: int = 100) -> str:
    """The plain facts on one line, for the table of a run."""
    text = ", ".join(f"{name} {show(value)}" for name, value in facts.items() if isinstance(value, (int, float)))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
