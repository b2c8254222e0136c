"""The codes of diagnostics: what each means, what to do, and a file that has it.

Read by ``explain``, by SARIF (as rules) and by the tests, which validate every example
and compare docs/errors.md with this table. A code keeps its meaning for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Code:
    """What a code means, in a sentence; what to do; the text of a spec file with the mistake, where one can show it."""

    meaning: str
    advice: str
    example: str | None = None


def _clone(spec: str, metadata: str = "name: qa") -> str:
    return f"apiVersion: reconciler/v1\nkind: Clone\nmetadata: {{{metadata}}}\nspec: {{{spec}}}\n"


def _image(name: str, source: str) -> str:
    return (
        f"apiVersion: reconciler/v1\nkind: Image\nmetadata: {{name: {name}}}\n"
        f"spec: {{engine: postgres, source: {{{source}}}}}\n"
    )


_SHOP = _image("shop", "empty: {}")

CODES: Final[Mapping[str, Code]] = {
    "R001": Code("The file is not readable text.", "Save it as UTF-8, without control characters."),
    "R002": Code("The file is too large.", "Split it; a spec file has at most 1 MiB."),
    "R003": Code(
        "The file is not valid YAML.",
        "The place is where the parser noticed; look there and a little above. Tabs cannot indent; text with `: `, "
        "`#`, `@` or a leading `*` needs quotes.",
        "apiVersion: reconciler/v1\nkind: Clone\nmetadata: {name: qa\n",
    ),
    "R004": Code(
        "A key is written twice in one mapping.",
        "Keep one of the two; the report names both places.",
        _clone("image: shop, ttl: 8h, ttl: 9h") + "---\n" + _SHOP,
    ),
    "R005": Code(
        "The file is nested too deep, or its aliases expand to too much.",
        "At most 64 levels and 100,000 values per file, aliases expanded.",
        "labels: " + "[" * 70 + "]" * 70 + "\n",
    ),
    "R006": Code(
        "A feature of YAML that specs do not use: tags, merge keys, keys that are not text.",
        "Write out what `<<` would merge, quote keys that are numbers, remove tags.",
        "apiVersion: reconciler/v1\nkind: !thing Clone\n",
    ),
    "R010": Code(
        "The document is not of the reconciler.",
        "Every document begins with `apiVersion: reconciler/v1` and a `kind`.",
        "name: qa\nimage: shop\n",
    ),
    "R011": Code(
        "The apiVersion or kind is not known.",
        "Use one of the kinds that the report lists.",
        "apiVersion: reconciler/v1\nkind: Clown\nmetadata: {name: qa}\nspec: {}\n",
    ),
    "R012": Code(
        "The field is not known.",
        "Take the suggestion, or remove the field.",
        _clone("image: shop, ttll: 8h") + "---\n" + _SHOP,
    ),
    "R013": Code("A required field is missing.", "Add it.", _clone("ttl: 8h")),
    "R014": Code(
        "The value is of the wrong type.",
        "YAML 1.2: `no`, `yes`, `on`, `off` are text; numbers that are names need quotes. A secret is "
        "`{secret: NAME}`. An empty value is no value.",
        _clone("image: shop, protected: yes") + "---\n" + _SHOP,
    ),
    "R015": Code(
        "The value is not one of those allowed.",
        "Use one of the values that the report lists.",
        _clone("image: shop, onRefresh: replace") + "---\n" + _SHOP,
    ),
    "R016": Code(
        "The value is malformed or out of range.",
        "The report says what the form is.",
        _clone("image: shop, ttl: tomorrow") + "---\n" + _SHOP,
    ),
    "R017": Code(
        "Fields contradict each other, or one needs another.",
        "Keep one of the two, or add what is missing.",
        _clone('image: shop, ttl: 8h, expires: "2026-12-01T00:00:00Z"') + "---\n" + _SHOP,
    ),
    "R020": Code(
        "Two documents have the same kind and name.",
        "Rename or remove one; names are unique per kind.",
        _SHOP + "---\n" + _SHOP,
    ),
    "R021": Code(
        "A document refers to an object that does not exist.",
        "Fix the name, or add the object. Nothing is said about references while a file cannot be parsed.",
        _clone("image: shoop") + "---\n" + _SHOP,
    ),
    "R022": Code(
        "Images are built on each other, or clones start from each other, in a circle.",
        "One image of the circle needs another source, one clone an image.",
        _image("base", "image: shop") + "---\n" + _image("shop", "image: base"),
    ),
    "R023": Code(
        "Two clones want the same port.",
        "Choose another port or leave it out. Clones with different labels may live on different hosts and are "
        "compared on each host.",
        "---\n".join([_clone("image: shop, port: 5601", f"name: {name}") for name in ("one", "two")] + [_SHOP]),
    ),
    "R024": Code(
        "Renames contradict each other.",
        "`formerly` names a document that is gone, and only one may claim it.",
        "---\n".join([_clone("image: shop", f"name: {name}, formerly: old") for name in ("one", "two")] + [_SHOP]),
    ),
    "R025": Code(
        "The pinned snapshot is of another image.",
        "A warning: fine if the image had that name when the snapshot was built.",
        _clone("image: shop, snapshot: other-20261122t020000z-1a2b3c4d") + "---\n" + _SHOP,
    ),
    "R026": Code(
        "The document does not belong into a spec repository.",
        "Keep the host's configuration on the host and name it with `--config`.",
    ),
    "R027": Code(
        "A numbered name is too long.",
        "Names have at most 63 characters, with the number that `count` adds.",
        _clone("image: shop, count: 5", f"name: {'q' * 63}") + "---\n" + _SHOP,
    ),
    "R028": Code(
        "The other image has no past.",
        "Give the image that `source.image` names a `pointInTime`, or remove `at`.",
        _image("then", "image: shop").replace("}}\n", '}, at: "2026-11-20T12:00:00Z"}\n') + "---\n" + _SHOP,
    ),
    "R030": Code(
        "A path is not in the repository, or not allowed.",
        "Paths are relative to the root of the spec repository, or absolute under a granted root.",
        _image("shop", "dump: {path: dumps/shop.sql}").replace("}}}", '}}, unmasked: {reason: "sample data"}}'),
    ),
    "R031": Code(
        "A template cannot be rendered.",
        "Templates see `image`, `clone` and `params` only; unknown names are errors.",
    ),
    "R032": Code(
        "A server setting is not for documents to decide.",
        "Settings that name files, commands, libraries or addresses are the reconciler's or the host's; leave them "
        "out.",
        _clone('image: shop, parameters: {listen_addresses: "*"}') + "---\n" + _SHOP,
    ),
    "R099": Code("There are more problems than are shown.", "Fix the first ones and validate again."),
}
"""Every code that a diagnostic can have; listed in docs/errors.md."""
