"""Stand-off JSON: a text, its entities by offsets, and the relations between them."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeGuard

from pydantic import model_validator

from whet.data.columns import check_names
from whet.data.json_rows import JsonRow, read_json_rows
from whet.data.rows import DataFile, Reject, Row, SourceSettings, Tally, describe, digest, finish, read_each
from whet.records import Example, Record, Span, Value
from whet.text.prepare import PrepareSettings, prepare

SUFFIXES = (".json", ".jsonl", ".ndjson")
_SHAPE = '{"tokens": text, "entities": [{"type", "start", "end"}], "relations": [{"type", "head", "tail"}]}'
_SIMPLIFIED = PrepareSettings(unicode="NFKC", script="simplified")


class Standoff(SourceSettings):
    """A list of texts with entities by offsets; the offsets count, in whatever script `span` is.

    Where `span` is other words than the text has there, the gold is ungrounded: `data.clean.ungrounded` decides.
    """

    reader: Literal["standoff"]
    """The reader's name."""
    text_key: str = "tokens"
    """The key that holds the text."""
    relation: str | None = None
    """Each relation of this type gives a record of its head and tail; null gives a record for each entity."""
    head_field: str = "name"
    """The record field that takes the relation's head."""
    tail_field: str = "office"
    """The record field that takes the relation's tail."""
    types: tuple[str, ...] = ()
    """Without a relation: the entity types that become records; none named means all."""
    text_field: str = "text"
    """Without a relation: the record field that takes the entity."""
    type_field: str = "type"
    """Without a relation: the record field that takes its type."""
    group_key: str | None = None
    """The key of a row's document, which stays in one split; null groups equal texts."""

    @model_validator(mode="after")
    def _fields_differ(self) -> "Standoff":
        pair = (self.text_field, self.type_field) if self.relation is None else (self.head_field, self.tail_field)
        if pair[0] == pair[1]:
            raise ValueError(f"two fields of a record are called {pair[0]!r}")
        return self


def read_standoff(source: Standoff, files: Sequence[DataFile], tally: Tally) -> Iterator[Row]:
    """One example a text; rows whose `span` differs from the text by more than script are counted in `tally`."""
    seen: set[str] = set()
    yield from read_each(files, tally, partial(_read_file, source, tally, seen))
    wanted, what = ((source.relation,), "relation") if source.relation is not None else (source.types, "type")
    check_names(wanted, sorted(seen), what, files)


def _read_file(source: Standoff, tally: Tally, seen: set[str], file: DataFile) -> Iterator[Row]:
    for row in read_json_rows(file, source, tally, lambda value: source.text_key in value and "entities" in value):
        yield row if isinstance(row, Reject) else _read_row(source, tally, seen, row)


def _read_row(source: Standoff, tally: Tally, seen: set[str], row: JsonRow) -> Row:
    what = _misshapen(source, row.value)
    if what:
        return Reject(row.place, what, _SHAPE, f"A row is {_SHAPE}; offsets count characters from 0, end exclusive", row.raw)
    text, entities, relations = row.value[source.text_key], row.value["entities"], row.value.get("relations") or []
    if source.relation is None:
        found = _entity_records(source, text, entities)
        seen.update(entity["type"] for entity in entities)
    else:
        found = _relation_records(source, text, entities, relations)
        seen.update(relation["type"] for relation in relations)
    if any(_differs(text, entity) for entity in entities):
        tally["rows whose span differs from the text by more than script"] += 1
    group = digest(text) if source.group_key is None else digest(f"{source.group_key}={row.value[source.group_key]}")
    return finish(Example("", text, row.place, group, records=tuple(found)), row.raw)


def _misshapen(source: Standoff, value: Any) -> str:
    """What is wrong with a row; empty if nothing is."""
    if not isinstance(value, dict):
        return f"{describe(value)} where an object is due"
    text, entities, relations = value.get(source.text_key), value.get("entities"), value.get("relations") or []
    if not isinstance(text, str):
        words = "; token lists with token offsets are not read" if isinstance(text, list) else ""
        return f"{source.text_key} is {describe(text)}, not text{words}"
    if not isinstance(entities, list) or not isinstance(relations, list):
        return "entities or relations is no list"
    if source.group_key is not None and value.get(source.group_key) in (None, ""):
        return f"no {source.group_key} to group by"
    faults = [f"entity {at} {words}" for at, entity in enumerate(entities) if (words := _entity_fault(text, entity))]
    num = len(entities)
    faults += [f"relation {at} {words}" for at, r in enumerate(relations) if (words := _relation_fault(num, r))]
    return "; ".join(faults[:3])


def _entity_fault(text: str, entity: Any) -> str:
    if not isinstance(entity, dict) or not isinstance(entity.get("type"), str):
        return "has no type"
    start, end = entity.get("start"), entity.get("end")
    if _is_index(start) and _is_index(end) and 0 <= start < end <= len(text):
        return ""
    return f"stands at {start!r} to {end!r} of a text of {len(text)} characters"


def _relation_fault(num_entities: int, relation: Any) -> str:
    if not isinstance(relation, dict) or not isinstance(relation.get("type"), str):
        return "has no type"
    for end in ("head", "tail"):
        if not _is_index(relation.get(end)) or not 0 <= relation[end] < num_entities:
            return f"has the {end} {relation.get(end)!r}; there are {num_entities} entities"
    return ""


def _is_index(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _value(text: str, entity: Mapping[str, Any]) -> Value:
    """What stands at the offsets; where that can't be what was meant, what was said, which is then ungrounded."""
    said, stands = entity.get("span"), text[entity["start"] : entity["end"]]
    meant = said if isinstance(said, str) and said and _is_elsewhere(text, said, stands) else stands
    return Value(meant, Span(entity["start"], entity["end"]))


def _is_elsewhere(text: str, said: str, stands: str) -> bool:
    """Whether a `span` is other words than the text has at its offsets.

    Variants that no conversion knows (餘 and 馀) are the same word: equal length, half of the characters or more equal
    in place, and the text doesn't hold what was said anywhere else.
    """
    if said == stands:
        return False
    one, two = prepare(said, _SIMPLIFIED).text, prepare(stands, _SIMPLIFIED).text
    if one == two:
        return False
    num_equal = sum(a == b for a, b in zip(one, two, strict=False))
    return len(one) != len(two) or 2 * num_equal < len(one) or one in prepare(text, _SIMPLIFIED).text


def _entity_records(source: Standoff, text: str, entities: Sequence[Mapping[str, Any]]) -> list[Record]:
    chosen = [entity for entity in entities if not source.types or entity["type"] in source.types]
    chosen.sort(key=lambda entity: (entity["start"], entity["end"]))
    return [{source.text_field: _value(text, e), source.type_field: Value(e["type"])} for e in chosen]


def _relation_records(
    source: Standoff, text: str, entities: Sequence[Mapping[str, Any]], relations: Sequence[Mapping[str, Any]]
) -> list[Record]:
    """One record a pair, by the place of the head and then of the tail; a pair that is given twice is one record."""
    pairs = {(r["head"], r["tail"]) for r in relations if r["type"] == source.relation}
    ordered = sorted(pairs, key=lambda pair: (entities[pair[0]]["start"], entities[pair[1]]["start"], pair))
    return [{source.head_field: _value(text, entities[h]), source.tail_field: _value(text, entities[t])} for h, t in ordered]


def _differs(text: str, entity: Mapping[str, Any]) -> bool:
    """Whether `span`, if there is one, is other text than the offsets say, script apart."""
    said, stands = entity.get("span"), text[entity["start"] : entity["end"]]
    if said is None or said == stands:
        return False
    return not isinstance(said, str) or prepare(said, _SIMPLIFIED).text != prepare(stands, _SIMPLIFIED).text
