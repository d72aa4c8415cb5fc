"""JSON schemas of the types that are encoded, for /openapi.json and /asyncapi.json. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from account_socket.model import MAX_I64

Json = dict[str, Any]

PUBKEY: Json = {
    "type": "string",
    "format": "solana-pubkey",
    "pattern": "^[1-9A-HJ-NP-Za-km-z]{32,44}$",
    "description": "base58 of 32 bytes",
}
NUMBER: Json = {"type": "integer", "minimum": 0, "maximum": MAX_I64}


def reference(name: str) -> Json:
    """Return a reference to a schema of `components`."""
    return {"$ref": f"#/components/schemas/{name}"}


def components(types: Iterable[type[msgspec.Struct]]) -> dict[str, Json]:
    """
    Return the schemas of these types and of all that they hold, by name.

    A name is the type's without a leading underscore; a description is the first paragraph of its docstring.
    """
    types = tuple(types)
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    for each in types:
        unset = {field.encode_name for field in msgspec.structs.fields(each) if _may_be_unset(field.type)}
        schema = schemas[each.__name__]
        schema["required"] = [name for name in schema.get("required", ()) if name not in unset]
    named: dict[str, Json] = _without_underscores(schemas)
    for schema in named.values():
        if "description" in schema:
            schema["description"] = " ".join(schema["description"].partition("\n\n")[0].split())
    return named


def _may_be_unset(kind: Any) -> bool:
    return msgspec.UnsetType in getattr(kind, "__args__", ())


def _without_underscores(schemas: dict[str, Json]) -> dict[str, Json]:
    def rename(value: Any) -> Any:
        if isinstance(value, list):
            return [rename(each) for each in value]
        if not isinstance(value, dict):
            return value
        return {key: strip(key, each) for key, each in value.items()}

    def strip(key: str, value: Any) -> Any:
        if not isinstance(value, str):
            return rename(value)
        return value.replace("/_", "/") if key == "$ref" else value.lstrip("_") if key == "title" else value

    return {name.lstrip("_"): rename(schema) for name, schema in schemas.items()}
