"""What the demo works on: specs, configuration, and a small database that looks like production."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CONFIG: dict[str, object] = {"runtimes": {"process": {"ports": "15600-15999"}}}

SPECS = """\
apiVersion: reconciler/v1
kind: Image
metadata: {name: shop}
spec:
  engine: postgres
  source:
    dump: {path: dumps/shop.sql}
  databases: [shop]
  unmasked: {reason: "made-up data of the demo"}
  checks:
    - {sql: "SELECT count(*) = 20000 FROM orders", database: shop}
---
apiVersion: reconciler/v1
kind: Clone
metadata: {name: shop-dev}
spec:
  image: shop
  owner: developers
  users: [{name: app, role: owner}]
---
apiVersion: reconciler/v1
kind: Clone
metadata: {name: shop-test}
spec:
  image: shop
  owner: testers
  users: [{name: app, role: owner}]
"""

_CUSTOMERS = 2_000
_ORDERS = 20_000
_FIRST = ("Ana", "Bo", "Chloé", "Dmitri", "Elif", "Fiona", "Goran", "Hana", "Inès", "Jürgen", "Kofi", "Łucja")
_LAST = ("Adler", "Bianchi", "Costa", "Dubois", "Eriksen", "Fischer", "García", "Horváth", "Ito", "Jensen")

_SCHEMA = """\
--
-- PostgreSQL database dump
--

SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;

CREATE TABLE customer (
    customer_id integer NOT NULL,
    first_name text NOT NULL,
    last_name text NOT NULL,
    email text NOT NULL
);

CREATE TABLE orders (
    order_id integer NOT NULL,
    customer_id integer NOT NULL,
    placed_at timestamp with time zone NOT NULL,
    amount numeric(10,2) NOT NULL
);

"""

_CONSTRAINTS = """\
ALTER TABLE ONLY customer ADD CONSTRAINT customer_pkey PRIMARY KEY (customer_id);
ALTER TABLE ONLY orders ADD CONSTRAINT orders_pkey PRIMARY KEY (order_id);
CREATE UNIQUE INDEX customer_email ON customer USING btree (email);
ALTER TABLE ONLY orders ADD CONSTRAINT orders_customer FOREIGN KEY (customer_id) REFERENCES customer(customer_id);

--
-- PostgreSQL database dump complete
--

"""


def write_dump(path: Path) -> None:
    """Write a plain SQL dump as pg_dump writes it; the same at every call."""
    chance = random.Random(7)  # noqa: S311 - made-up data, not secrets
    with path.open("w", encoding="utf-8") as out:
        out.write(_SCHEMA)
        out.write("COPY customer (customer_id, first_name, last_name, email) FROM stdin;\n")
        for number in range(1, _CUSTOMERS + 1):
            first, last = chance.choice(_FIRST), chance.choice(_LAST)
            out.write(f"{number}\t{first}\t{last}\tcustomer{number}@example.com\n")
        out.write("\\.\n\nCOPY orders (order_id, customer_id, placed_at, amount) FROM stdin;\n")
        for number in range(1, _ORDERS + 1):
            customer, day, hour = chance.randint(1, _CUSTOMERS), chance.randint(1, 28), chance.randint(0, 23)
            amount = chance.randint(100, 99_999) / 100
            out.write(
                f"{number}\t{customer}\t2026-{chance.randint(1, 12):02}-{day:02} {hour:02}:00:00+00\t{amount:.2f}\n"
            )
        out.write("\\.\n\n" + _CONSTRAINTS)
